/** @file An ONNX model, built node by node. Values are their names. */
import { Message } from './protobuf.ts';

const OPSET = 17;
const FLOAT = 1;
const INT64 = 7;

/** Field numbers are those of onnx.proto. */
export class OnnxGraph {
  readonly #graph = new Message();
  readonly #constants = new Map<string, { dims: readonly number[]; data: Float32Array | BigInt64Array }>();
  readonly #inputs: Message[] = [];
  readonly #outputs: Message[] = [];
  #values = 0;

  input(name: string, dims: readonly number[]): string {
    this.#inputs.push(describe(name, dims));
    return name;
  }

  output(name: string, dims: readonly number[]): void {
    this.#outputs.push(describe(name, dims));
  }

  /** An initializer; made once under each name. */
  constant(name: string, dims: readonly number[], data: Float32Array | BigInt64Array): string {
    this.#constants.set(name, { dims, data });
    return name;
  }

  ints(values: readonly number[]): string {
    return this.constant(`ints ${values.join()}`, [values.length], BigInt64Array.from(values, BigInt));
  }

  floats(values: readonly number[]): string {
    return this.constant(`floats ${values.join()}`, [values.length], Float32Array.from(values));
  }

  scalar(value: number): string {
    return this.constant(`scalar ${value}`, [], Float32Array.of(value));
  }

  /** @param attributes a number is an int, `{ float }` a float, an array ints, a text a string */
  node(
    type: string,
    inputs: readonly string[],
    attributes: Readonly<Record<string, number | { float: number } | readonly number[] | string>> = {},
  ): string {
    return this.nodes(type, inputs, attributes, 1)[0]!;
  }

  /** A node with several outputs. */
  nodes(
    type: string,
    inputs: readonly string[],
    attributes: Parameters<OnnxGraph['node']>[2],
    count: number,
  ): string[] {
    const node = new Message();
    const outputs = Array.from({ length: count }, () => `value ${this.#values++}`);
    for (const name of inputs) node.text(1, name);
    for (const name of outputs) node.text(2, name);
    node.text(3, `${type} ${this.#values}`).text(4, type);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      const attribute = new Message().text(1, name);
      if (typeof value === 'string') attribute.text(4, value).int(20, 3);
      else if (typeof value === 'number') attribute.int(3, value).int(20, 2);
      else if ('float' in value) attribute.float(2, value.float).int(20, 1);
      else {
        for (const item of value) attribute.int(8, item);
        attribute.int(20, 7);
      }
      node.message(5, attribute);
    }
    this.#graph.message(1, node);
    return outputs;
  }

  finish(): Uint8Array {
    const graph = this.#graph.text(2, 'peer');
    for (const [name, { dims, data }] of this.#constants) {
      const tensor = new Message();
      for (const size of dims) tensor.int(1, size);
      tensor.int(2, data instanceof Float32Array ? FLOAT : INT64).text(8, name);
      graph.message(5, tensor.bytes(9, new Uint8Array(data.buffer, data.byteOffset, data.byteLength)));
    }
    for (const input of this.#inputs) graph.message(11, input);
    for (const output of this.#outputs) graph.message(12, output);
    const opset = new Message().text(1, '').int(2, OPSET);
    return new Message().int(1, 8).text(2, 'pilotwave-peers').message(7, graph).message(8, opset).finish();
  }
}

function describe(name: string, dims: readonly number[]): Message {
  const shape = new Message();
  for (const size of dims) shape.message(1, new Message().int(1, size));
  const tensor = new Message().int(1, FLOAT).message(2, shape);
  return new Message().text(1, name).message(2, new Message().message(1, tensor));
}
