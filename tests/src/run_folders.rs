//! Run folders as searches and trainings leave them, made up but plausible: for tests of what reads such folders. Nothing here is computed by a network, and
//! the numbers mean nothing.

use std::{error::Error, fs, path::Path};

use darts_cells::{
    genotype::Genotype,
    space::{ConvSpace, RecurrentSpace},
};
use serde_json::{Value, json};

/// A folder to be made up.
#[derive(Clone, Debug)]
pub struct RunFolder {
    /// Whether it is a search.
    pub search: bool,
    /// `cifar10`, `synthetic-images`, `ptb`, …
    pub task: &'static str,
    /// The run's seed.
    pub seed: u64,
    /// Epochs that are planned.
    pub epochs: u64,
    /// Epochs that are done.
    pub done: u64,
    /// Whether there is a `summary.json`.
    pub finished: bool,
    /// Error, in percent, or perplexity at the end.
    pub final_figure: f64,
}

impl RunFolder {
    /// A finished search on CIFAR-10.
    pub fn search(seed: u64) -> Self {
        Self {
            search: true,
            task: "cifar10",
            seed,
            epochs: 50,
            done: 50,
            finished: true,
            final_figure: 11.2 + 0.1 * seed as f64,
        }
    }

    /// A finished training on CIFAR-10.
    pub fn training(seed: u64) -> Self {
        Self { search: false, task: "cifar10", seed, epochs: 600, done: 600, finished: true, final_figure: 2.81 }
    }

    /// The same on other data.
    pub fn on(self, task: &'static str) -> Self {
        Self { task, ..self }
    }

    /// The same with another length.
    pub fn epochs(self, epochs: u64) -> Self {
        Self { epochs, done: epochs, ..self }
    }

    /// The same, stopped after some epochs.
    pub fn stopped_after(self, done: u64) -> Self {
        Self { done, finished: false, ..self }
    }

    /// The same with another result.
    pub fn ending_at(self, final_figure: f64) -> Self {
        Self { final_figure, ..self }
    }

    fn is_text(&self) -> bool {
        matches!(self.task, "ptb" | "wikitext2" | "text" | "synthetic-text")
    }

    /// Writes the folder's files.
    ///
    /// # Errors
    /// If a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<(), Box<dyn Error>> {
        fs::create_dir_all(dir)?;
        fs::write(dir.join("run.json"), self.run().to_string())?;
        let (mut metrics, mut alphas) = (String::new(), String::new());
        for epoch in 0..self.done {
            for step in 0..12 {
                metrics.push_str(&format!("{}\n", self.step(epoch, step)));
            }
            let (weights, genotype) = self.cell(epoch)?;
            metrics.push_str(&format!("{}\n", self.epoch(epoch, &genotype)));
            alphas.push_str(&format!("{weights}\n"));
        }
        fs::write(dir.join("metrics.jsonl"), metrics)?;
        if self.search {
            fs::write(dir.join("alphas.jsonl"), alphas)?;
        }
        if self.done > 0 {
            let (_, genotype) = self.cell(self.done - 1)?;
            fs::write(dir.join("genotype.json"), genotype.to_json()?)?;
        }
        if self.finished {
            fs::write(dir.join("summary.json"), self.summary().to_string())?;
        }
        Ok(())
    }

    fn run(&self) -> Value {
        let synthetic = self.task.starts_with("synthetic");
        let config = if self.is_text() {
            json!({"data": {"dataset": self.task}, "seed": self.seed, "epochs": self.epochs, "batch_size": 256, "units": 300, "bptt": 35, "learning_rate": 20.0,
                   "weight_decay": 5e-7, "grad_clip": 0.25, "dropout": {"output": 0.75, "hidden": 0.25}, "order": "second"})
        } else if self.search {
            json!({"data": {"dataset": self.task}, "seed": self.seed, "order": "second", "epochs": self.epochs, "batch_size": 64, "train_limit": null,
                   "init_channels": if synthetic { 4 } else { 16 }, "layers": if synthetic { 3 } else { 8 }, "nodes": 4, "learning_rate": 0.025, "learning_rate_min": 0.001,
                   "momentum": 0.9, "weight_decay": 3e-4, "grad_clip": 5.0, "alpha_learning_rate": 3e-4, "alpha_beta1": 0.5, "alpha_beta2": 0.999,
                   "alpha_weight_decay": 1e-3, "radius": 0.01})
        } else {
            json!({"data": {"dataset": self.task}, "seed": self.seed, "epochs": self.epochs, "batch_size": 96, "train_limit": null, "held_out": 0.0, "init_channels": 36,
                   "layers": if synthetic { 3 } else { 20 }, "auxiliary": true, "auxiliary_weight": 0.4, "cutout": 16, "drop_path_prob": 0.2, "label_smoothing": 0.0,
                   "learning_rate": 0.025, "learning_rate_min": 0.0, "momentum": 0.9, "weight_decay": 3e-4, "grad_clip": 5.0})
        };
        let mut run = json!({
            "kind": if self.search { "search" } else { "train" }, "task": self.task, "config": config, "seed": self.seed, "version": "0.1.0",
            "commit": "0123456789abcdef0123456789abcdef01234567", "device": "cpu", "started": "2026-01-02T03:04:05Z",
            "hardware": {"cpu": "AMD EPYC 7763 64-Core Processor", "cores": 2, "threads": 2, "instruction_set": "AVX2", "memory_bytes": 16_777_216_000u64, "os": "Linux"},
            "data": {"train": 25000, "valid": 25000, "test": 10000, "classes": 10, "synthetic": synthetic},
        });
        if self.is_text() {
            run["corpus"] =
                json!({"train_tokens": 929_589, "valid_tokens": 73_760, "test_tokens": 82_430, "vocabulary": 10_000});
            if synthetic {
                run["corpus"]["entropy"] = json!(3.2);
            }
        }
        run
    }

    /// From 1 down to 0 over the planned epochs, with some noise that the seed and the place decide.
    fn fall(&self, epoch: f64, noise: f64) -> f64 {
        let share = epoch / self.epochs as f64;
        let wave = (epoch * 12.9898 + self.seed as f64 * 78.233).sin() * 43_758.545;
        ((-4.0 * share).exp() * (1.0 - share)).max(0.0) + noise * (wave - wave.floor() - 0.5)
    }

    fn lr(&self, epoch: u64) -> f64 {
        if self.is_text() {
            20.0
        } else {
            0.0125 * (1.0 + (std::f64::consts::PI * epoch as f64 / self.epochs as f64).cos())
        }
    }

    fn step(&self, epoch: u64, step: u64) -> Value {
        let place = epoch as f64 + step as f64 / 12.0;
        let loss = if self.is_text() {
            self.final_figure.ln() + 2.0 * self.fall(place, 0.1)
        } else {
            0.04 + 2.2 * self.fall(place, 0.08).max(0.0)
        };
        let mut line = json!({"kind": "step", "epoch": epoch, "step": epoch * 12 + step + 1, "train_loss": loss, "lr": self.lr(epoch), "grad_norm": 1.5 + 2.0 * self.fall(place, 0.9),
                              "seconds": 1.3});
        if !self.is_text() {
            line["train_accuracy"] = json!((1.0 - 0.8 * self.fall(place, 0.06)).clamp(0.0, 1.0));
        }
        if self.search {
            line["valid_loss"] = json!(loss * 1.1 + 0.1);
        }
        line
    }

    fn epoch(&self, epoch: u64, genotype: &Genotype) -> Value {
        let place = epoch as f64 + 1.0;
        let mut line = json!({"kind": "epoch", "epoch": epoch, "lr": self.lr(epoch), "seconds": 431.7});
        if self.is_text() {
            let loss = self.final_figure.ln() + 2.0 * self.fall(place, 0.01);
            line["train_loss"] = json!(loss - 0.3);
            line["valid_loss"] = json!(loss);
            line["valid_perplexity"] = json!(loss.exp());
        } else {
            line["train_loss"] = json!(0.05 + 2.2 * self.fall(place, 0.0));
            line["train_accuracy"] = json!((0.99 - 0.75 * self.fall(place, 0.01)).clamp(0.0, 1.0));
            if self.search {
                let end = self.final_figure / 100.0;
                line["valid_loss"] = json!(0.35 + 1.9 * self.fall(place, 0.02));
                line["valid_accuracy"] = json!((1.0 - end - 0.7 * self.fall(place, 0.012)).clamp(0.0, 1.0));
            }
            line["images_per_second"] = json!(58.4);
        }
        if self.search {
            line["genotype"] = json!(genotype);
        }
        line
    }

    /// α after an epoch, as a line of `alphas.jsonl`, and the cell it stands for: edges drift apart in directions that the seed decides.
    fn cell(&self, epoch: u64) -> Result<(Value, Genotype), Box<dyn Error>> {
        let grown = |initial: Vec<f32>, wobble: Vec<f32>| -> Vec<f32> {
            let share = (epoch + 1) as f32 / self.epochs as f32;
            let grow = 700.0 * share.sqrt();
            initial
                .iter()
                .zip(&wobble)
                .map(|(value, other)| grow * value + 500.0 * share * (1.0 - share) * other)
                .collect()
        };
        if self.is_text() {
            let space = RecurrentSpace::darts();
            let alphas = grown(space.initial_alphas(self.seed), space.initial_alphas(self.seed + 1000));
            let rows: Vec<&[f32]> = alphas.chunks(space.operations()).collect();
            return Ok((json!({"epoch": epoch, "alphas": rows}), space.derive(&alphas)?.into()));
        }
        let space = ConvSpace::darts();
        let alphas = grown(space.initial_alphas(self.seed), space.initial_alphas(self.seed + 1000));
        let rows: Vec<&[f32]> = alphas.chunks(space.operations()).collect();
        let (normal, reduce) = rows.split_at(space.edges());
        Ok((json!({"epoch": epoch, "alphas_normal": normal, "alphas_reduce": reduce}), space.derive(&alphas)?.into()))
    }

    fn summary(&self) -> Value {
        let mut summary = json!({"kind": if self.search { "search" } else { "train" }, "epochs": self.epochs, "steps": self.epochs * 391, "train_loss": 0.0512,
                                 "wall_seconds": 431.7 * self.epochs as f64, "peak_memory_bytes": 2_684_354_560u64, "peak_device_bytes": 8_589_934_592u64});
        let split = if self.search || self.epochs < 150 { "valid" } else { "test" };
        if self.is_text() {
            summary["valid_perplexity"] = json!(self.final_figure * 1.04);
            summary["test_perplexity"] = json!(self.final_figure);
            summary["parameters"] = json!(22_960_000);
        } else {
            summary[format!("{split}_accuracy")] = json!(1.0 - self.final_figure / 100.0);
            summary[format!("{split}_error")] = json!(self.final_figure / 100.0);
            summary["parameters"] = json!(if self.search { 1_930_618 } else { 3_349_342 });
            summary["multiply_adds"] = json!(if self.search { 300_255_744 } else { 528_359_040 });
        }
        summary
    }
}

/// A whole experiment: searches with `searches` seeds, a short training of each cell, the full training.
///
/// # Errors
/// If a file cannot be written.
pub fn write_experiment(dir: &Path, task: &'static str, searches: u64) -> Result<(), Box<dyn Error>> {
    let text = matches!(task, "ptb" | "synthetic-text");
    for seed in 0..searches {
        let search = RunFolder::search(seed).on(task);
        let (found, short, full) = if text { (110.0, 70.0, 57.2) } else { (11.2, 3.9, 2.81) };
        search.ending_at(found + 0.3 * seed as f64).write(&dir.join(format!("search-{seed}")))?;
        let spread = [0.31, 0.0, 0.52, 0.18][seed as usize % 4];
        RunFolder::training(seed)
            .on(task)
            .epochs(100)
            .ending_at(short + spread)
            .write(&dir.join(format!("select-{seed}")))?;
        if seed == 0 {
            RunFolder::training(seed).on(task).epochs(600).ending_at(full).write(&dir.join("train"))?;
        }
    }
    Ok(())
}
