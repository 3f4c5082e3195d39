/** @file The part of protobuf's wire format that an ONNX file needs. */
const encoder = new TextEncoder();

export class Message {
  readonly #chunks: Uint8Array[] = [];
  #length = 0;

  int(field: number, value: number | bigint): this {
    return this.#tag(field, 0).#varint(value);
  }

  float(field: number, value: number): this {
    return this.#tag(field, 5).#raw(new Uint8Array(Float32Array.of(value).buffer));
  }

  text(field: number, value: string): this {
    return this.bytes(field, encoder.encode(value));
  }

  bytes(field: number, value: Uint8Array): this {
    return this.#tag(field, 2).#varint(value.length).#raw(value);
  }

  message(field: number, value: Message): this {
    this.#tag(field, 2).#varint(value.#length);
    for (const chunk of value.#chunks) this.#raw(chunk);
    return this;
  }

  finish(): Uint8Array {
    const result = new Uint8Array(this.#length);
    let at = 0;
    for (const chunk of this.#chunks) {
      result.set(chunk, at);
      at += chunk.length;
    }
    return result;
  }

  #raw(bytes: Uint8Array): this {
    this.#chunks.push(bytes);
    this.#length += bytes.length;
    return this;
  }

  #varint(value: number | bigint): this {
    let rest = BigInt.asUintN(64, BigInt(value));
    const bytes: number[] = [];
    do {
      const low = Number(rest & 127n);
      rest >>= 7n;
      bytes.push(rest > 0n ? low | 128 : low);
    } while (rest > 0n);
    return this.#raw(Uint8Array.from(bytes));
  }

  #tag(field: number, type: number): this {
    return this.#varint((field << 3) | type);
  }
}
