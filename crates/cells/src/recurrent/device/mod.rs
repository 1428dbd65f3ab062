//! A recurrent network on a device: its passes laid down as programs of darts-cuda, over buffers that are planned in advance. The
//! same wiring, the same flat θ and the same semantics as on the CPU ([`RecurrentNetwork::evaluate`]); nothing here computes, and
//! nothing waits for the device but [`DeviceRecurrent::loss`].
//!
//! A program is for one sequence length: time steps are unrolled, and what a launch reads and writes is fixed when it is laid down.
//! Lengths vary in training, between 5 and 55 or so; each gets its program when it is first met and keeps it, the buffers are one
//! set for all. What changes from step to step (words, masks, θ, operation weights, the hidden state) lies in device memory.

mod backward;
mod buffers;
mod forward;
mod run;

use darts_cuda::{Memory, Precision, Program, View, embedding, tied_decoder, vector};

use self::buffers::{Arena, Buffers};
use self::run::Run;
use super::network::{argument, length};
use super::{LossConfig, LossOutput, Masks, Mode, RecurrentNetwork};
pub use crate::device::DeviceStatistics;
use crate::error::Result;

/// A sequence of words in device memory, with its dropout. Its length is that of the last upload.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct DeviceSequence {
    room: Room,
    steps: usize,
    masks: DeviceMasks,
}

/// Memory for the longest sequence.
#[derive(Copy, Clone, Debug, PartialEq)]
struct Room {
    tokens: View<u32>,
    targets: View<u32>,
    occurrences: View<u32>,
    masks: DeviceMasks,
}

/// Dropout masks as [`Masks`] has them.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
struct DeviceMasks {
    x: Option<View>,
    h: Option<View>,
    embedding_locked: Option<View>,
    output_locked: Option<View>,
    embedding_rows: Option<View>,
}

/// What a pass reads and writes beside its sequence, all in device memory.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct DevicePass {
    /// All weights, as [`RecurrentNetwork::parameters`] lays them out.
    pub theta: View,
    /// Operation weights `[edges, operations]` of a search network; none for a discrete one.
    pub weights: View,
    /// Incoming hidden state `[B, H]`.
    pub hidden: View,
    /// Where the next hidden state goes; may be `hidden`.
    pub next_hidden: Option<View>,
    /// Which statistics batch norm uses; a network without one ignores it.
    pub statistics: DeviceStatistics,
    /// Coefficients of the regularizers.
    pub loss: LossConfig,
    /// The gradients that are asked for.
    pub gradients: DeviceGradients,
    /// What the factors of matrix products are rounded to.
    pub precision: Precision,
}

/// The gradients of the loss that are asked for; each is overwritten.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
pub struct DeviceGradients {
    /// With respect to all weights, laid out as they are.
    pub theta: Option<View>,
    /// With respect to the operation weights `[edges, operations]`.
    pub weights: Option<View>,
    /// With respect to the incoming hidden state `[B, H]`.
    pub hidden: Option<View>,
}

impl DeviceGradients {
    fn any(&self) -> bool {
        self.theta.is_some() || self.weights.is_some() || self.hidden.is_some()
    }
}

/// A pass over a sequence of one length with one choice of masks: what a program is laid down for.
#[derive(Copy, Clone, Debug, PartialEq)]
struct Key {
    pass: DevicePass,
    room: Room,
    masks: DeviceMasks,
    steps: usize,
}

/// A recurrent network's buffers and programs on one device. Every method that takes a device takes that one.
#[derive(Debug)]
pub struct DeviceRecurrent {
    network: RecurrentNetwork,
    mode: Mode,
    batch: usize,
    /// The longest sequence.
    steps: usize,
    buffers: Buffers,
    programs: Vec<(Key, Program)>,
    /// Length and precision of the last pass.
    last: (usize, Precision),
}

impl DeviceRecurrent {
    /// Allocates the buffers for passes over `batch` rows and up to `steps` time steps.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) for sizes of 0, [`Error::Device`](crate::Error::Device) without memory.
    pub fn new(
        device: &(impl Memory + ?Sized),
        network: RecurrentNetwork,
        batch: usize,
        steps: usize,
        mode: Mode,
    ) -> Result<Self> {
        for (what, value) in [("batch", batch), ("number of time steps", steps)] {
            if value == 0 {
                return Err(argument(what, value, "1 or more"));
            }
        }
        let bytes = Self::bytes(&network, batch, steps, mode);
        let mut arena = Arena::new(device.allocate::<u8>(bytes as usize)?.address);
        let buffers = Buffers::new(&network, batch, steps, mode, &mut arena);
        Ok(Self { network, mode, batch, steps, buffers, programs: Vec::new(), last: (0, Precision::F32) })
    }

    /// Bytes of device memory that [`DeviceRecurrent::new`] asks for.
    pub fn bytes(network: &RecurrentNetwork, batch: usize, steps: usize, mode: Mode) -> u64 {
        // Laid out from address 0 to see how far it reaches.
        let mut arena = Arena::new(0);
        Buffers::new(network, batch, steps, mode, &mut arena);
        arena.used()
    }

    /// The network.
    pub fn network(&self) -> &RecurrentNetwork {
        &self.network
    }

    /// Memory for a sequence of up to the planned length.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) without memory.
    pub fn sequence(&self, device: &(impl Memory + ?Sized)) -> Result<DeviceSequence> {
        let (words, state) = (self.steps * self.batch, self.batch * self.network.config.hidden);
        let mask = |len| Ok::<_, darts_cuda::Error>(Some(device.allocate(len)?));
        let room = Room {
            tokens: device.allocate(words)?,
            targets: device.allocate(words)?,
            occurrences: device.allocate(embedding::occurrences_len(words))?,
            masks: DeviceMasks {
                x: mask(state)?,
                h: mask(state)?,
                embedding_locked: mask(state)?,
                output_locked: mask(state)?,
                embedding_rows: mask(self.network.config.vocabulary)?,
            },
        };
        Ok(DeviceSequence { room, steps: 0, masks: DeviceMasks::default() })
    }

    /// Sends words, the words that follow, and the masks of their dropout.
    ///
    /// # Shapes
    /// `tokens`, `targets` \[T, B\], each below V.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) or [`Error::Length`](crate::Error::Length) for the first that does not fit,
    /// [`Error::Device`](crate::Error::Device) where the device fails.
    pub fn upload(
        &self,
        device: &(impl Memory + ?Sized),
        sequence: &mut DeviceSequence,
        tokens: &[u32],
        targets: &[u32],
        masks: &Masks,
    ) -> Result<()> {
        let network = &self.network;
        if tokens.is_empty() || !tokens.len().is_multiple_of(self.batch) || tokens.len() / self.batch > self.steps {
            let expected = format!("1 to {} time steps of {}", self.steps, self.batch);
            return Err(argument("number of tokens", tokens.len(), expected));
        }
        network.check_words("token", tokens)?;
        network.check_words("target", targets)?;
        length("targets", targets.len(), tokens.len())?;
        network.check_masks(masks, self.batch)?;
        let room = &sequence.room;
        let words = 0..tokens.len();
        device.upload(room.tokens.slice(words.clone()), tokens)?;
        device.upload(room.targets.slice(words), targets)?;
        let occurrences = embedding::occurrences(tokens);
        device.upload(room.occurrences.slice(0..occurrences.len()), &occurrences)?;
        let send = |view: Option<View>, mask: Option<&[f32]>| match (view, mask) {
            (Some(view), Some(mask)) => device.upload(view, mask).map(|()| Some(view)),
            _ => Ok(None),
        };
        sequence.masks = DeviceMasks {
            x: send(room.masks.x, masks.x)?,
            h: send(room.masks.h, masks.h)?,
            embedding_locked: send(room.masks.embedding_locked, masks.embedding_locked)?,
            output_locked: send(room.masks.output_locked, masks.output_locked)?,
            embedding_rows: send(room.masks.embedding_rows, masks.embedding_rows)?,
        };
        sequence.steps = tokens.len() / self.batch;
        Ok(())
    }

    /// A pass over an uploaded sequence with its targets: the loss, and the gradients asked for. Asks the device and does not wait.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) or [`Error::Length`](crate::Error::Length) for the first argument that does not
    /// fit, [`Error::Device`](crate::Error::Device) where the device fails.
    pub fn evaluate(
        &mut self,
        device: &(impl Memory + ?Sized),
        sequence: &DeviceSequence,
        pass: &DevicePass,
    ) -> Result<()> {
        self.last = (sequence.steps, pass.precision);
        device.run(self.program(sequence, pass)?)?;
        Ok(())
    }

    /// Appends the launches of [`DeviceRecurrent::evaluate`] to a program, which keeps nothing here. `results`: the loss with its
    /// regularizers, and the mean negative log-likelihood alone; overwritten.
    ///
    /// # Errors
    /// As [`DeviceRecurrent::evaluate`], but for the device's.
    pub fn lay_down(
        &self,
        program: &mut Program,
        sequence: &DeviceSequence,
        pass: &DevicePass,
        results: View<f64>,
    ) -> Result<()> {
        length("results", results.len, 2)?;
        let key = Key { pass: *pass, room: sequence.room, masks: sequence.masks, steps: sequence.steps };
        self.check(&key)?;
        program.append(self.laid_down(&key));
        let [sum, activation, temporal] = [0, 1, 2].map(|i| self.buffers.values.slice(i..i + 1));
        let mean = (1.0 / (sequence.steps * self.batch) as f64, sum);
        vector::combine(program, results.slice(0..1), &[mean, (1.0, activation), (1.0, temporal)]);
        vector::combine(program, results.slice(1..2), &[mean]);
        Ok(())
    }

    /// Number of words of the sequence that was uploaded last.
    pub fn words(&self, sequence: &DeviceSequence) -> usize {
        sequence.steps * self.batch
    }

    /// The program of [`DeviceRecurrent::evaluate`], laid down when it is first asked for.
    ///
    /// # Errors
    /// As [`DeviceRecurrent::evaluate`], but for the device's.
    pub fn program(&mut self, sequence: &DeviceSequence, pass: &DevicePass) -> Result<&Program> {
        let key = Key { pass: *pass, room: sequence.room, masks: sequence.masks, steps: sequence.steps };
        let index = match self.programs.iter().position(|(other, _)| *other == key) {
            Some(index) => index,
            None => {
                self.check(&key)?;
                self.programs.push((key, self.laid_down(&key)));
                self.programs.len() - 1
            }
        };
        Ok(&self.programs[index].1)
    }

    /// Waits for the last [`DeviceRecurrent::evaluate`] and reads what it gave.
    ///
    /// # Errors
    /// [`Error::Device`](crate::Error::Device) where the device failed.
    pub fn loss(&self, device: &(impl Memory + ?Sized)) -> Result<LossOutput> {
        let mut values = [0.0; 3];
        device.download(self.buffers.values, &mut values)?;
        let [sum, activation, temporal] = values;
        let nll = sum / (self.last.0 * self.batch) as f64;
        Ok(LossOutput { nll, loss: nll + activation + temporal })
    }

    /// Logarithms of the probabilities of all words at every position of the last pass; `out` \[T, B, V\] is overwritten.
    ///
    /// # Errors
    /// [`Error::Length`](crate::Error::Length) where a view does not fit, [`Error::Device`](crate::Error::Device) where the device
    /// fails.
    pub fn log_probabilities(&self, device: &(impl Memory + ?Sized), theta: View, out: View) -> Result<()> {
        let (steps, precision) = self.last;
        let rows = steps * self.batch;
        length("theta", theta.len, self.network.parameter_count())?;
        length("logarithms of the probabilities", out.len, rows * self.network.config.vocabulary)?;
        let mut program = Program::default();
        let output = self.buffers.output.slice(0..rows * self.network.config.hidden);
        let decoder = self.decoder(theta);
        tied_decoder::log_probabilities(&mut program, precision, decoder, output, out, self.buffers.products);
        device.run(&program)?;
        Ok(())
    }

    fn decoder(&self, theta: View) -> tied_decoder::Decoder {
        let places = &self.network.places;
        tied_decoder::Decoder { weight: theta.slice(places.encoder.clone()), bias: theta.slice(places.bias.clone()) }
    }

    fn check(&self, key: &Key) -> Result<()> {
        let Key { pass, steps, .. } = key;
        let network = &self.network;
        if *steps == 0 {
            return Err(argument("sequence", "empty", "one that was uploaded"));
        }
        let state = self.batch * network.config.hidden;
        length("theta", pass.theta.len, network.parameter_count())?;
        length("operation weights", pass.weights.len, network.operation_weights())?;
        length("hidden state", pass.hidden.len, state)?;
        if let Some(next) = pass.next_hidden {
            length("next hidden state", next.len, state)?;
        }
        match pass.statistics {
            DeviceStatistics::Batch { .. } if network.cell.normalized && self.batch < 2 => {
                return Err(argument(
                    "batch",
                    self.batch,
                    "2 or more, for a batch norm with the batch's own statistics",
                ));
            }
            DeviceStatistics::Batch { update: Some(running) } | DeviceStatistics::Running(running) => {
                length("running statistics", running.len, network.statistics().len())?;
            }
            DeviceStatistics::Batch { update: None } => {}
        }
        let DeviceGradients { theta, weights, hidden } = pass.gradients;
        if pass.gradients.any() && self.mode == Mode::Inference {
            return Err(argument(
                "network",
                "planned for inference",
                "one planned for training, as gradients are wanted",
            ));
        }
        let gradients = [
            ("gradient of theta", theta, network.parameter_count()),
            ("gradient of the operation weights", weights, network.operation_weights()),
            ("gradient of the hidden state", hidden, state),
        ];
        for (what, gradient, expected) in gradients {
            if let Some(gradient) = gradient {
                length(what, gradient.len, expected)?;
            }
        }
        Ok(())
    }

    /// Forward pass, loss and backward pass. The arguments have been checked.
    fn laid_down(&self, key: &Key) -> Program {
        let mut program = Program::default();
        let run = Run::new(self, key);
        run.forward(&mut program);
        run.loss(&mut program);
        if key.pass.gradients.any() {
            run.backward(&mut program);
        }
        program
    }
}
