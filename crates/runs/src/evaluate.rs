//! Evaluating and using a finished training on images: its error on a split, and the classes of single images.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use darts_cells::conv::ConvNetwork;
#[cfg(feature = "cuda")]
use darts_cells::conv::{DeviceConv, DeviceConvPlan};
use darts_cells::parameters::{self, Extra};
#[cfg(feature = "cuda")]
use darts_cuda::driver::Device;
#[cfg(feature = "cuda")]
use darts_cuda::{Backend, Memory, Program};
use darts_data::BadImages;
use darts_data::dataset::Dataset;
use darts_data::image_folder::read_image;
use darts_data::imagenet::{Centre, StoredImages};
use darts_data::transform::{Draw, Transform};

use crate::config::{DataConfig, RunKind, TrainConfig};
#[cfg(feature = "cuda")]
use crate::device::memory::{of_a_model, refuse_beyond_free};
use crate::engine::Watch;
use crate::error::{Error, Result};
use crate::folder::{DataRecord, RECORD, RunRecord, WEIGHTS};
use crate::options::{Computer, RunOptions};
use crate::progress::Progress;
use crate::task::image::data::Images;
#[cfg(feature = "cuda")]
use crate::task::image::device::{
    feed::Feed,
    score::Scorer,
    train::{DeviceModel, batches_of, discrete_pass, scores},
};
use crate::task::image::network_config;
use crate::task::image::score::{Trained, log_softmax};
use crate::task::image::train::split;

/// Which data to evaluate on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training data that the run held out.
    Valid,
    /// The test data.
    Test,
}

/// What an evaluation found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy in nats.
    pub loss: f64,
    /// Share that is right.
    pub accuracy: f64,
    /// 100·(1 − accuracy).
    pub error_percent: f64,
    /// Percentage whose class is not among the five likeliest; 0 with five classes or fewer.
    pub top5_error_percent: f64,
    /// How many images.
    pub examples: usize,
}

/// The likeliest classes of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct Prediction {
    /// The file.
    pub image: PathBuf,
    /// At most five classes with their probabilities, the likeliest first.
    pub top: Vec<(String, f64)>,
}

/// A finished training, read back.
struct Model {
    config: TrainConfig,
    data: DataRecord,
    network: ConvNetwork,
    theta: Vec<f32>,
    statistics: Vec<f32>,
}

impl Model {
    fn read(dir: &Path) -> Result<Self> {
        let (record, bytes) = finished_training(dir)?;
        if record.is_text() {
            return Err(Error::NotReady { dir: dir.into(), reason: "was trained on text, not on images".into() });
        }
        let config: TrainConfig = record.config(dir)?;
        config.validate()?;
        let path = dir.join(WEIGHTS);
        let data = record.data;
        data.validate().map_err(|reason| Error::bad_file(dir.join(RECORD), reason))?;
        let classes = data.classes.len();
        let sizes = network_config(
            config.init_channels,
            config.layers,
            config.auxiliary,
            classes,
            data.image_size(),
            &config.data,
        );
        let network = ConvNetwork::discrete(&config.genotype, &sizes)?;
        let tables = [network.parameters(), network.statistics()];
        let vectors = parameters::load(&bytes, &tables, Extra::Refuse).map_err(|e| Error::bad_file(&path, e))?;
        let [theta, statistics] = <[Vec<f32>; 2]>::try_from(vectors)
            .map_err(|_| Error::bad_file(&path, "it has not the two sections of a trained network"))?;
        Ok(Self { config, data, network, theta, statistics })
    }

    /// The images to evaluate on: a split of the data that it was trained for, or all of another folder that has nothing
    /// but folders named like its classes.
    fn images(&self, dir: &Path, split: Split, options: &RunOptions) -> Result<Arc<dyn Dataset>> {
        let (data, given) = (&self.data, options.data_dir.as_deref());
        let of_classes = |folder: &PathBuf| StoredImages::fits(folder, &data.classes);
        let folders = given.into_iter().flat_map(|dir| [dir.to_path_buf(), dir.join("test"), dir.join("val")]);
        if let Some(folder) = folders.into_iter().find(of_classes).filter(|_| split == Split::Test) {
            let centre = match self.config.data {
                DataConfig::ImageNet { resize, .. } => Centre::Of(resize),
                _ => Centre::Largest,
            };
            let (size, normalization) = (data.image_size(), data.normalization());
            return Ok(Arc::new(StoredImages::in_folder(&folder, &data.classes, size, centre, normalization)?));
        }
        let images = Images::open(&self.config.data, given)?.limited(self.config.train_limit);
        let found = images.record(data.train, data.valid);
        if (&found.classes, found.image_size) != (&data.classes, data.image_size) {
            return Err(Error::DataDiffers {
                dir: dir.to_path_buf(),
                field: "classes".into(),
                stored: data.classes.len().to_string(),
                given: format!("{} (or others)", found.classes.len()),
            });
        }
        choose(&images, &self.config, split)
    }

    fn trained(&self) -> Trained<'_> {
        Trained { network: &self.network, theta: &self.theta, statistics: &self.statistics, weights: &[] }
    }

    /// What computes the logits of a single normalized image.
    #[cfg_attr(not(feature = "cuda"), expect(unused_variables, reason = "options of a GPU"))]
    fn logits_of_one<'a>(&'a self, computer: &'a Computer, options: &RunOptions) -> Result<Logits<'a>> {
        match computer {
            Computer::Cpu(_) => {
                let mut workspace = self.network.workspace(1);
                Ok(Box::new(move |image| Ok(self.trained().logits(&mut workspace, image, 1)?.to_vec())))
            }
            #[cfg(feature = "cuda")]
            Computer::Gpu(device) => {
                let on_device = OnDevice::new(device, self, &[1], 0, options)?;
                let (images, labels) = (device.allocate(self.data.image_size().len())?, device.uploaded(&[0])?);
                let mut program = Program::default();
                let pass = discrete_pass((images, labels), on_device.model);
                on_device.network.lay_down(&mut program, 1, &pass, device.allocate(2)?)?;
                Ok(Box::new(move |image| {
                    device.upload(images, image)?;
                    device.run(&program)?;
                    Ok(device.downloaded(on_device.network.logits(1))?)
                }))
            }
        }
    }
}

/// Logits of one normalized image.
type Logits<'a> = Box<dyn FnMut(&[f32]) -> Result<Vec<f32>> + 'a>;

/// A model in device memory.
#[cfg(feature = "cuda")]
struct OnDevice {
    network: DeviceConv,
    model: DeviceModel,
}

#[cfg(feature = "cuda")]
impl OnDevice {
    /// For batches of these sizes; `others`: bytes that will be asked for beside it.
    fn new(device: &Device, model: &Model, sizes: &[usize], others: u64, options: &RunOptions) -> Result<Self> {
        let plan = DeviceConvPlan::new(model.network.clone(), &[], sizes);
        refuse_beyond_free(device, plan.bytes() + 4 * model.theta.len() as u64 + others, of_a_model)?;
        Ok(Self {
            network: DeviceConv::new(device, plan)?,
            model: DeviceModel {
                theta: device.uploaded(&model.theta)?,
                statistics: device.uploaded(&model.statistics)?,
                precision: options.precision,
            },
        })
    }
}

/// The record of the finished training in `dir`, and the contents of its weights' file.
pub(crate) fn finished_training(dir: &Path) -> Result<(RunRecord, Vec<u8>)> {
    let record = RunRecord::read(dir)?;
    let not_ready = |reason: String| Error::NotReady { dir: dir.to_path_buf(), reason };
    if record.kind != RunKind::Train {
        let train = format!("darts train {} --genotype {}", record.task, dir.display());
        return Err(not_ready(format!("is a search, not a trained network; train its cell first: {train}")));
    }
    let path = dir.join(WEIGHTS);
    if !path.exists() {
        return Err(not_ready("is not finished: it has no weights yet; continue it with --resume".into()));
    }
    let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
    Ok((record, bytes))
}

/// What an evaluation says that was stopped.
pub(crate) fn interrupted(dir: &Path) -> Error {
    Error::NotReady { dir: dir.to_path_buf(), reason: "was not evaluated to the end: interrupted".into() }
}

/// Evaluates the trained run in `dir` on a split of the data that it was trained for, or on all images of another folder
/// with a folder for each of its classes, or for some of them ([`RunOptions::data_dir`]).
///
/// # Errors
/// [`Error::NotReady`] when the folder is no finished training, [`Error::Config`] for the validation data of a run that
/// held nothing out, [`Error::DataDiffers`] for other data than it was trained for, and what the data refuse.
pub fn evaluate(dir: &Path, split: Split, options: &RunOptions, progress: &mut dyn Progress) -> Result<Evaluation> {
    options.validate()?;
    let computer = options.computer()?;
    let model = Model::read(dir)?;
    options.on_threads(|| {
        let set = model.images(dir, split, options)?;
        let batch = model.config.part_size().min(set.len());
        let bad_images = Arc::new(BadImages::new(options.max_bad_images));
        let name = if split == Split::Test { "test" } else { "validation" };
        let watch = &mut Watch::new(progress);
        let scores = match computer {
            Computer::Cpu(_) => {
                let mut workspace = model.network.workspace(batch);
                model.trained().scores(&mut workspace, &set, &bad_images, name, watch)?
            }
            #[cfg(feature = "cuda")]
            Computer::Gpu(device) => {
                let sizes = batches_of(set.len(), batch, options.max_bad_images);
                let of_feed = Feed::bytes(&*set, batch, false);
                let on_device = OnDevice::new(&device, &model, &sizes, of_feed, options)?;
                let mut scorer = Scorer::new(&*device, &set, batch, None, &bad_images, options.readers())?;
                scores(&mut scorer, &*device, &on_device.network, on_device.model, name, watch)?
            }
        };
        let scores = scores.ok_or_else(|| interrupted(dir))?;
        let accuracy = scores.accuracy.unwrap_or(0.0);
        Ok(Evaluation {
            loss: scores.loss,
            accuracy,
            error_percent: 100.0 * (1.0 - accuracy),
            top5_error_percent: 100.0 * scores.top5_error.unwrap_or(0.0),
            examples: scores.examples,
        })
    })
}

fn choose(images: &Images, config: &TrainConfig, wanted: Split) -> Result<Arc<dyn Dataset>> {
    match wanted {
        Split::Test => Ok(images.test.clone()),
        Split::Valid => split(images, config)?.held_out.ok_or_else(|| Error::Config {
            field: "split",
            value: "valid".into(),
            expected: "test: this run held no training data out".into(),
        }),
    }
}

/// The likeliest classes of image files, by the trained run in `dir`. It needs no dataset.
///
/// # Errors
/// [`Error::NotReady`] when the folder is no finished training, [`Error::Data`] for a file that is no image.
pub fn predict(dir: &Path, images: &[PathBuf], options: &RunOptions) -> Result<Vec<Prediction>> {
    options.validate()?;
    let computer = options.computer()?;
    let model = Model::read(dir)?;
    options.on_threads(|| {
        let size = model.data.image_size();
        let transform = Transform::new(size, &model.data.normalization());
        let mut logits = model.logits_of_one(&computer, options)?;
        let (mut pixels, mut normalized) = (vec![0; size.len()], vec![0.0; size.len()]);
        let mut predictions = Vec::with_capacity(images.len());
        for image in images {
            read_image(image, size, &mut pixels)?;
            transform.apply(&pixels, &Draw::default(), &mut normalized);
            predictions
                .push(Prediction { image: image.clone(), top: top5(&logits(&normalized)?, &model.data.classes) });
        }
        Ok(predictions)
    })
}

fn top5(logits: &[f32], classes: &[String]) -> Vec<(String, f64)> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let entry = |class: usize| (classes[class].clone(), log_softmax(logits, class).exp());
    order.into_iter().take(5).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_five_likeliest_classes_come_in_order_with_probabilities_that_sum_to_less_than_one() {
        let classes: Vec<String> = ["a", "b", "c", "d", "e", "f"].map(String::from).into();
        let top = top5(&[0.0, 3.0, 1.0, 3.0, -2.0, 2.0], &classes);
        let names: Vec<_> = top.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["b", "d", "f", "c", "a"]);
        let sum: f64 = top.iter().map(|(_, p)| p).sum();
        assert!(sum < 1.0 && sum > 0.99, "{sum}");
        assert_eq!(top5(&[0.0, 0.0], &classes[..2])[0], ("a".to_string(), 0.5));
    }
}
