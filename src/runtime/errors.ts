/**
 * @file The errors that users meet. Each message says what was expected, what was found and what to do; `code` is for
 * programs that want to tell them apart. A cancelled run rejects with the signal's own reason instead.
 */

export type ErrorCode =
  | 'no-webgpu'
  | 'no-adapter'
  | 'device-lost'
  | 'out-of-memory'
  | 'validation'
  | 'limit'
  | 'checkpoint'
  | 'option'
  | 'disposed'
  | 'non-finite';

export class PilotwaveError extends Error {
  override readonly name: string = 'PilotwaveError';
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** A checkpoint cannot be read, or is not the model that was asked for. */
export class CheckpointError extends PilotwaveError {
  override readonly name = 'CheckpointError';
  constructor(message: string, options?: ErrorOptions) {
    super('checkpoint', message, options);
  }
}

/** An option of a function or of the command line has a value that makes no sense. */
export class OptionError extends PilotwaveError {
  override readonly name = 'OptionError';
  constructor(message: string, options?: ErrorOptions) {
    super('option', message, options);
  }
}

/** The device refused a shader, a pipeline or a dispatch, is lost, or has no room. */
export class DeviceError extends PilotwaveError {
  override readonly name = 'DeviceError';
}

/** A run with `checkFinite` met NaN or infinity. */
export class NonFiniteError extends PilotwaveError {
  override readonly name = 'NonFiniteError';
  /** The first operation that wrote one, named after its layer. */
  readonly operation: string;

  constructor(operation: string, where: string) {
    super('non-finite', `${operation} is the first operation to write NaN or infinity, ${where}`);
    this.operation = operation;
  }
}
