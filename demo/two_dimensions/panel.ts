/** @file The panel "Why it sharpens": two clouds of samples and p(y | x)^s, all at the scale that is dragged. */
import { make, variable } from '../shell/dom.ts';
import { scaleText } from '../shell/words.ts';
import { CLASSES, evaluate, type Point } from './mixture.ts';
import { classCount, drawNoise, figuresOf, samplePlane, type Way } from './sampling.ts';

const POINTS = 320;
/** Pixels of a square, and half the side of the plane it shows. */
const SIZE = 224;
const EXTENT = 2.4;
/** Pixels a side of the field p(y | x)^s. */
const FIELD = 112;

const NAMES = ['A', 'B', 'C'] as const;
/** Where the names stand: outside of the ellipses. */
const LABELS: readonly Point[] = [
  [-2.0, -1.7],
  [2.0, -1.7],
  [-0.95, 1.95],
];

interface Square {
  readonly canvas: HTMLCanvasElement;
  readonly figures: HTMLElement;
  readonly element: HTMLElement;
}

export class Plane {
  readonly #noise = drawNoise(POINTS);
  readonly #scale = make('input', { type: 'range', id: 'plane-scale', min: 0, max: 400, step: 1 });
  readonly #out = make('output', { for: 'plane-scale' });
  readonly #squares: Readonly<Record<Way | 'power', Square>>;
  #y = 0;
  #pending = 0;

  constructor(host: HTMLElement) {
    this.#scale.value = '100';
    this.#squares = {
      classifier: square(['Classifier guidance'], 'classifier'),
      free: square(['Classifier-free guidance'], 'free'),
      power: square(
        [variable('p'), '(', variable('y'), ' | ', variable('x'), ')', make('sup', {}, variable('s'))],
        'power',
      ),
    };
    const classes = make('fieldset', { class: 'seg small' }, make('legend', { class: 'vh' }, 'Class'));
    NAMES.slice(0, classCount).forEach((name, k) => {
      const input = make('input', { type: 'radio', name: 'plane-class', value: k });
      input.checked = k === this.#y;
      input.addEventListener('change', () => {
        this.#y = k;
        this.#later();
      });
      classes.append(make('label', {}, input, make('span', {}, name)));
    });
    const fill = make('i', { id: 'plane-fill' });
    const slider = make('div', { class: 'slider plain' }, make('span', { class: 'track' }, fill), this.#scale);
    this.#scale.addEventListener('input', () => this.#later());
    host.replaceChildren(
      make(
        'div',
        { class: 'plane-controls' },
        make('div', { class: 'label' }, 'Class ', variable('y')),
        classes,
        make('label', { class: 'label', for: 'plane-scale' }, make('span', {}, 'Scale ', variable('s')), this.#out),
        slider,
      ),
      make(
        'div',
        { class: 'plane-squares' },
        this.#squares.classifier.element,
        this.#squares.free.element,
        this.#squares.power.element,
      ),
      make(
        'p',
        { class: 'meta plane-note' },
        'The same ',
        String(POINTS),
        ' draws of noise at every scale. At 0 nobody is asked and all three classes appear; around 1 the samples are those of the class; above, they leave the borders, where the classifier is unsure, and gather where it is certain: diversity is paid for certainty. With exact scores both ways push along the same line, since the gradient of log p(y | x) is the difference of the two scores. With networks they differ by what each has learned.',
      ),
    );
    // Colours follow the theme; a canvas has to be told.
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#later());
    new ResizeObserver(() => this.#later()).observe(host);
    this.#draw();
  }

  get scale(): number {
    const value = (Number(this.#scale.value) / 100) ** 2;
    return value < 4 ? Math.round(value * 10) / 10 : Math.round(value * 2) / 2;
  }

  #later(): void {
    this.#pending ||= requestAnimationFrame(() => {
      this.#pending = 0;
      this.#draw();
    });
  }

  #draw(): void {
    const { scale } = this;
    this.#out.textContent = scaleText(scale);
    this.#scale.setAttribute('aria-valuetext', scaleText(scale));
    (this.#scale.previousElementSibling!.firstElementChild as HTMLElement).style.width =
      `${Number(this.#scale.value) / 4}%`;
    for (const way of ['classifier', 'free'] as const) {
      const points = samplePlane(way, this.#y, scale, this.#noise);
      const { canvas, figures } = this.#squares[way];
      drawCloud(canvas, points, this.#y, way);
      const { within, spread } = figuresOf(points, this.#y);
      const text = `${Math.round(100 * within)} % in ${NAMES[this.#y]}, spread ${spread.toFixed(2)}`;
      figures.textContent = text;
      canvas.setAttribute('aria-label', `${POINTS} samples: ${text}`);
    }
    drawPower(this.#squares.power.canvas, this.#y, scale);
    this.#squares.power.figures.textContent = `white is 1, black 0`;
    this.#squares.power.canvas.setAttribute(
      'aria-label',
      `The probability of class ${NAMES[this.#y]} to the power ${scaleText(scale)} over the plane`,
    );
  }
}

function square(title: readonly (Node | string)[], kind: Way | 'power'): Square {
  const canvas = make('canvas', { role: 'img' });
  const figures = make('span', { class: 'meta' });
  const caption = make('figcaption', {}, figures);
  const element = make('figure', { class: `plane-square ${kind}` }, make('h3', {}, ...title), canvas, caption);
  return { canvas, figures, element };
}

/** A canvas sized for the screen's pixels, with the plane's middle in its own. */
function prepare(canvas: HTMLCanvasElement): { context: CanvasRenderingContext2D; size: number } {
  const size = Math.round((canvas.clientWidth || SIZE) * (devicePixelRatio || 1));
  if (canvas.width !== size) {
    canvas.width = size;
    canvas.height = size;
  }
  const context = canvas.getContext('2d')!;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, size, size);
  return { context, size };
}

const toPixel = (value: number, size: number): number => ((value + EXTENT) / (2 * EXTENT)) * size;

function drawCloud(canvas: HTMLCanvasElement, points: Float32Array, y: number, way: Way): void {
  const { context, size } = prepare(canvas);
  const style = getComputedStyle(canvas);
  const unit = size / SIZE;
  drawEllipses(context, size, y, style);
  context.fillStyle = style.getPropertyValue(way === 'classifier' ? '--accent' : '--contrast');
  context.globalAlpha = 0.75;
  for (let p = 0; p < points.length; p += 2) {
    context.beginPath();
    context.arc(toPixel(points[p]!, size), size - toPixel(points[p + 1]!, size), 1.8 * unit, 0, 2 * Math.PI);
    context.fill();
  }
  context.globalAlpha = 1;
}

function traceEllipse(
  context: CanvasRenderingContext2D,
  size: number,
  mean: Point,
  [xx, xy, yy]: readonly [number, number, number],
  deviations: number,
): void {
  const middle = (xx + yy) / 2;
  const half = Math.hypot((xx - yy) / 2, xy);
  const angle = 0.5 * Math.atan2(2 * xy, xx - yy);
  const unit = (deviations * size) / (2 * EXTENT);
  const [long, short] = [Math.sqrt(middle + half) * unit, Math.sqrt(middle - half) * unit];
  context.beginPath();
  context.ellipse(toPixel(mean[0], size), size - toPixel(mean[1], size), long, short, -angle, 0, 2 * Math.PI);
}

/** Each class as the ellipses of one and two standard deviations; the asked one darker, all with their names. */
function drawEllipses(context: CanvasRenderingContext2D, size: number, y: number, style: CSSStyleDeclaration): void {
  const unit = size / SIZE;
  CLASSES.forEach(({ mean, covariance }, k) => {
    context.strokeStyle = style.getPropertyValue(k === y ? '--text' : '--line-2');
    context.lineWidth = (k === y ? 1.25 : 1) * unit;
    for (const deviations of [1, 2]) {
      context.globalAlpha = deviations === 1 ? 1 : 0.5;
      traceEllipse(context, size, mean, covariance, deviations);
      context.stroke();
    }
    context.globalAlpha = 1;
    const [x, textY] = LABELS[k]!;
    context.fillStyle = style.getPropertyValue(k === y ? '--text' : '--text-3');
    context.font = `${k === y ? 600 : 400} ${12 * unit}px ${style.fontFamily}`;
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.fillText(NAMES[k]!, toPixel(x, size), size - toPixel(textY, size));
  });
}

/** The asked class's ellipse on the field, where theme colours would not do: it is black and white in both. */
function drawBorders(context: CanvasRenderingContext2D, size: number, y: number): void {
  const { mean, covariance } = CLASSES[y]!;
  context.strokeStyle = '#19b5c9';
  context.lineWidth = (1.25 * size) / SIZE;
  traceEllipse(context, size, mean, covariance, 2);
  context.stroke();
}

/** p(y | x)^s as grey: what the density is multiplied with. */
function drawPower(canvas: HTMLCanvasElement, y: number, scale: number): void {
  const { context, size } = prepare(canvas);
  const image = new ImageData(FIELD, FIELD);
  for (let row = 0; row < FIELD; row++) {
    for (let column = 0; column < FIELD; column++) {
      const at = (v: number) => (2 * EXTENT * (v + 0.5)) / FIELD - EXTENT;
      const { posterior } = evaluate([at(column), -at(row)], 1);
      const value = 255 * posterior[y]! ** scale;
      const i = 4 * (row * FIELD + column);
      image.data.fill(value, i, i + 3);
      image.data[i + 3] = 255;
    }
  }
  const small = document.createElement('canvas');
  small.width = FIELD;
  small.height = FIELD;
  small.getContext('2d')!.putImageData(image, 0, 0);
  context.imageSmoothingEnabled = true;
  context.drawImage(small, 0, 0, size, size);
  drawBorders(context, size, y);
}
