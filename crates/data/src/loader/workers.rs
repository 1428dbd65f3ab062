//! The iterator over batches and the threads behind it: workers take step numbers in turn, stay at most a fixed number
//! of batches ahead of the consumer, and put each batch into its place, so that the order is the steps' order. A
//! worker's error or panic comes out of `next` at its step; dropping the iterator stops the workers within one example.

use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::choices::Choices;
use super::{Plan, Scratch, Source};
use crate::Error;

/// Batches that a consumer may hold on to without an allocation at the next step.
const HELD: usize = 2;

/// The batches of an epoch, or of a random stream, in order. Threads start with the first call of `next`.
pub struct Batches {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Workers to start, 0 to make batches in the caller's thread.
    workers: usize,
    next: u64,
    finished: bool,
    waited: Duration,
    scratch: Scratch,
}

pub(super) struct Shared {
    pub(super) source: Arc<Source>,
    pub(super) plan: Plan,
    pub(super) batch_size: usize,
    pub(super) end: Option<u64>,
    ahead: u64,
    stop: AtomicBool,
    queue: Mutex<Queue>,
    /// Signalled when a batch was made.
    made: Condvar,
    /// Signalled when a batch was taken, or everything stops.
    taken: Condvar,
}

#[derive(Default)]
struct Queue {
    /// The next step that no worker has begun.
    begin: u64,
    /// The step that the consumer takes next.
    consume: u64,
    /// The batch of step s is put into slot s mod `ahead`.
    slots: Vec<Option<Result<Batch, Error>>>,
}

impl Batches {
    pub(super) fn new(
        source: Arc<Source>,
        plan: Plan,
        batch_size: usize,
        end: Option<u64>,
        workers: usize,
        ahead: usize,
    ) -> Self {
        source.pool.reserve(ahead + HELD, batch_size, source.dataset.image_size());
        let slots = (0..ahead).map(|_| None).collect();
        let shared = Shared {
            source,
            plan,
            batch_size,
            end,
            ahead: ahead as u64,
            stop: AtomicBool::new(false),
            queue: Mutex::new(Queue { slots, ..Queue::default() }),
            made: Condvar::new(),
            taken: Condvar::new(),
        };
        Self {
            shared: Arc::new(shared),
            threads: Vec::new(),
            workers,
            next: 0,
            finished: false,
            waited: Duration::ZERO,
            scratch: Scratch::default(),
        }
    }

    /// Leaves out the next `steps` batches; before the first call of `next` none of them is made.
    pub fn skip(mut self, steps: u64) -> Self {
        if self.threads.is_empty() {
            self.next = self.next.saturating_add(steps);
        } else {
            (0..steps).try_for_each(|_| self.next().map(drop));
        }
        self
    }

    /// The batches from here on as a list of what is in them, none of which is made; None where their images are scaled or coloured on the
    /// way, which takes the images.
    pub fn choices(&self) -> Option<Choices> {
        Choices::new(self.shared.clone(), self.next)
    }

    /// Waits at most so long for the next batch to be made. True where [`next`](Iterator::next) need not wait any more: it is
    /// made, there is none, or it is made in the caller's thread.
    pub fn is_ready_within(&mut self, most: Duration) -> bool {
        if self.workers == 0 || self.finished || self.shared.end.is_some_and(|end| self.next >= end) {
            return true;
        }
        // Where the system refuses threads, `next` says so.
        if self.threads.is_empty() && self.start().is_err() {
            return true;
        }
        let slot = (self.next % self.shared.ahead) as usize;
        let is_missing = |queue: &mut Queue| queue.slots[slot].is_none();
        let queue = self.shared.made.wait_timeout_while(self.shared.lock(), most, is_missing);
        let (queue, _) = queue.unwrap_or_else(PoisonError::into_inner);
        queue.slots[slot].is_some()
    }

    /// How long the consumer has waited for batches so far.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    fn start(&mut self) -> Result<(), Error> {
        {
            let mut queue = self.shared.lock();
            (queue.begin, queue.consume) = (self.next, self.next);
        }
        for number in 0..self.workers {
            let shared = self.shared.clone();
            let builder = std::thread::Builder::new().name(format!("data-{number}"));
            let thread = builder.spawn(move || shared.work()).map_err(|error| Error::Worker {
                step: self.next,
                message: format!("the system refused a thread: {error}"),
            })?;
            self.threads.push(thread);
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Batch, Error> {
        if self.workers == 0 {
            return self.shared.make(self.next, &mut self.scratch).expect("only a drop stops the caller's own thread");
        }
        if self.threads.is_empty() {
            self.start()?;
        }
        let slot = (self.next % self.shared.ahead) as usize;
        let mut queue = self.shared.lock();
        let batch = loop {
            match queue.slots[slot].take() {
                Some(batch) => break batch,
                None => queue = self.shared.made.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        queue.consume = self.next + 1;
        drop(queue);
        self.shared.taken.notify_all();
        batch
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, Error>;

    /// The next batch. After an error there are no more.
    fn next(&mut self) -> Option<Self::Item> {
        if self.finished || self.shared.end.is_some_and(|end| self.next >= end) {
            return None;
        }
        let begin = Instant::now();
        let batch = self.take();
        self.waited += begin.elapsed();
        self.next += 1;
        self.finished = batch.is_err();
        Some(batch)
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        {
            // Under the lock, so that no worker is between looking at the flag and waiting.
            let _queue = self.shared.lock();
            self.shared.stop.store(true, Ordering::Relaxed);
        }
        self.shared.taken.notify_all();
        for thread in self.threads.drain(..) {
            // A worker catches the panics of what it calls; one of its own has no better place to surface than `next`,
            // which is over.
            let _ = thread.join();
        }
        self.shared.source.pool.release(self.shared.ahead as usize + HELD);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A worker's life.
    fn work(&self) {
        let mut scratch = Scratch::default();
        while let Some(step) = self.begin_step() {
            let Some(batch) = self.make(step, &mut scratch) else {
                return;
            };
            self.lock().slots[(step % self.ahead) as usize] = Some(batch);
            self.made.notify_one();
        }
    }

    /// Waits for a step to begin; `None` when there are no more.
    fn begin_step(&self) -> Option<u64> {
        let mut queue = self.lock();
        loop {
            if self.stopped() || self.end.is_some_and(|end| queue.begin >= end) {
                return None;
            }
            if queue.begin < queue.consume + self.ahead {
                queue.begin += 1;
                return Some(queue.begin - 1);
            }
            queue = self.taken.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes a step's batch; a panic on the way becomes an error, and `None` says that everything stops.
    fn make(&self, step: u64, scratch: &mut Scratch) -> Option<Result<Batch, Error>> {
        let make = || self.source.make(&self.plan, self.batch_size, step, scratch, &|| self.stopped());
        // A scratch or a batch that a panic left half-written is overwritten whole before it is read again.
        match std::panic::catch_unwind(AssertUnwindSafe(make)) {
            Ok(result) => result.transpose(),
            Err(panic) => {
                let message = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message")
                    .to_owned();
                Some(Err(Error::Worker { step, message }))
            }
        }
    }
}
