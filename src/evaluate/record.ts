/**
 * @file What an evaluation has measured so far, as JSON: it can be stopped, resumed, and extended with more seeds.
 */
import { OptionError } from '../runtime/errors.ts';
import type { Judgement } from './features.ts';
import { type Setting, settingKey } from './settings.ts';
import { type Vectors, vectors } from './vectors.ts';

/** What must be the same for results to belong together. */
export interface Conditions {
  /** Digests of the files. */
  readonly model: string;
  readonly classifier: string;
  readonly judge: string;
  readonly respacing: Readonly<Record<string, string>>;
  /** Pictures of each seed: one or more of each class, in turn. */
  readonly pictures: number;
}

/** The pictures of one setting and one seed, as the judge saw them. */
export interface Chunk {
  readonly setting: string;
  readonly seed: number;
  readonly seconds: number;
  /** The share of values beyond [-1.1, 1.1], or not finite. */
  readonly outside: number;
  readonly labels: readonly number[];
  readonly features: Vectors;
  readonly logProbs: Vectors;
}

const FORMAT = 1;

export class EvaluationRecord {
  readonly conditions: Conditions;
  readonly chunks: Chunk[] = [];
  /** Adapters that took part. */
  readonly adapters = new Set<string>();

  constructor(conditions: Conditions) {
    this.conditions = conditions;
  }

  find(setting: Setting, seed: number): Chunk | undefined {
    const key = settingKey(setting);
    return this.chunks.find((chunk) => chunk.setting === key && chunk.seed === seed);
  }

  /** @param samples the pictures themselves, for what only they tell */
  add(
    setting: Setting,
    seed: number,
    labels: readonly number[],
    samples: Float32Array,
    { features, logProbs }: Judgement,
    seconds: number,
  ): void {
    const outside = samples.reduce((sum, value) => sum + (Math.abs(value) <= 1.1 ? 0 : 1), 0) / samples.length;
    this.chunks.push({ setting: settingKey(setting), seed, seconds, outside, labels, features, logProbs });
  }

  toJson(): string {
    const short = ({ data, width }: Vectors) => ({ width, data: Array.from(data, (v) => Number(v.toPrecision(6))) });
    const chunks = this.chunks.map((chunk) => ({
      ...chunk,
      features: short(chunk.features),
      logProbs: short(chunk.logProbs),
    }));
    const header = { format: FORMAT, conditions: this.conditions, adapters: [...this.adapters] };
    return `${JSON.stringify({ ...header, chunks })}\n`;
  }

  /** @throws OptionError if the text is no record, or one made under other conditions */
  static fromJson(text: string, conditions: Conditions, path: string): EvaluationRecord {
    let json: { format?: number; conditions: Conditions; adapters: string[]; chunks: StoredChunk[] };
    try {
      json = JSON.parse(text);
    } catch {
      throw new OptionError(`${path} is not JSON; name another file or remove it`);
    }
    if (json?.format !== FORMAT) throw new OptionError(`${path} holds no results of evaluate; name another file`);
    for (const key of Object.keys(conditions) as (keyof Conditions)[]) {
      if (JSON.stringify(json.conditions[key]) !== JSON.stringify(conditions[key])) {
        throw new OptionError(
          `${path} was made with ${key} ${JSON.stringify(json.conditions[key])}, now it is ${JSON.stringify(conditions[key])}; name another file`,
        );
      }
    }
    const record = new EvaluationRecord(conditions);
    for (const adapter of json.adapters) record.adapters.add(adapter);
    for (const chunk of json.chunks) {
      const { features, logProbs } = chunk;
      record.chunks.push({
        ...chunk,
        features: vectors(features.data, features.width),
        logProbs: vectors(logProbs.data, logProbs.width),
      });
    }
    return record;
  }
}

interface StoredVectors {
  readonly width: number;
  readonly data: number[];
}

type StoredChunk = Omit<Chunk, 'features' | 'logProbs'> & { features: StoredVectors; logProbs: StoredVectors };
