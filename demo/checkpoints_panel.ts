/** @file Files from the visitor's disk: dropped anywhere on the page, or chosen. Shows which models are in use. */
import { describeModel, type NamedFile } from './files/open.ts';
import type { Session } from './session.ts';
import { all, byId, make } from './shell/dom.ts';
import { notice } from './shell/notice.ts';
import { bytes } from './shell/words.ts';

export interface ModelFile {
  readonly name: string;
  readonly size: number;
}

export class CheckpointsPanel {
  /** @param onFiles called with what was dropped together */
  constructor(onFiles: (files: NamedFile[]) => void) {
    const input = byId<HTMLInputElement>('file');
    const read = async (list: Iterable<File>) =>
      onFiles(
        await Promise.all(
          [...list].map(async (file) => ({ name: file.name, bytes: new Uint8Array(await file.arrayBuffer()) })),
        ),
      );
    for (const button of all('[data-open-file]')) button.addEventListener('click', () => input.click());
    input.addEventListener('change', () => {
      if (input.files?.length) void read(input.files).catch((error) => this.refuse('The file', error));
      input.value = '';
    });
    let depth = 0; // a drag enters and leaves every element on its way
    const over = (on: boolean) => document.body.classList.toggle('dropping', on);
    const carriesFiles = (event: DragEvent) => event.dataTransfer?.types.includes('Files') ?? false;
    addEventListener('dragenter', (event) => {
      if (carriesFiles(event)) over(++depth > 0);
    });
    addEventListener('dragleave', (event) => {
      if (carriesFiles(event)) over(--depth > 0);
    });
    addEventListener('dragover', (event) => {
      if (carriesFiles(event)) event.preventDefault();
    });
    addEventListener('drop', (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      depth = 0;
      over(false);
      void read(event.dataTransfer!.files).catch((error) => this.refuse('The file', error));
    });
  }

  inUse({ unet, classifier }: Session, files: { unet: ModelFile; classifier: ModelFile | null }): void {
    const row = (use: string, file: ModelFile, what: string) =>
      make(
        'tr',
        {},
        make('td', {}, use),
        make('td', { class: 'mono' }, file.name),
        make('td', { class: 'opt' }, what),
        make('td', {}, bytes(file.size)),
      );
    byId('in-use').replaceChildren(
      row('U-Net', files.unet, describeModel(unet.config)),
      classifier && files.classifier
        ? row('Classifier', files.classifier, describeModel(classifier.config))
        : make('tr', {}, make('td', {}, 'Classifier'), make('td', { colspan: 3 }, 'none that fits this U-Net')),
    );
  }

  accepted(name: string, use: string, what: string): void {
    this.#say(notice('plain', `${name} is in use as ${use}.`, what));
  }

  refuse(name: string, error: unknown): void {
    const reason = error instanceof Error ? error.message : String(error);
    this.#say(notice('error', `${name} was not used:`, `${reason}. Nothing else changed.`));
    byId('checkpoints-block').scrollIntoView({ block: 'nearest' });
  }

  #say(box: HTMLElement): void {
    byId('file-result').replaceChildren(box);
  }
}
