//! A small ImageNet that is generated: [`SyntheticImages`] of many sizes, packed exactly as ILSVRC 2012 is, for trying the
//! whole path from official archives without them. Two of its images are what a few of ILSVRC's are: one is grayscale, one a
//! PNG behind the name of a JPEG. It refuses to be taken for photographs: results on it say that everything works, no more.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use ::tar::{Builder, Header};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageFormat, RgbImage};

use super::devkit::KIT;
use super::{TRAIN_TAR, VAL_TAR};
use crate::Error;
use crate::dataset::{Dataset, ImageSize};
use crate::synthetic::{SyntheticConfig, SyntheticImages};

/// The file that says that a folder holds generated archives; it is written last.
pub const MARK: &str = "SYNTHETIC.txt";
const NOISE: f64 = 0.1;

/// What to generate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Classes, 2 to [`MAX_CLASSES`](crate::synthetic::MAX_CLASSES).
    pub classes: usize,
    /// Training images of each class; at least 1.
    pub train_per_class: usize,
    /// Validation images of each class; at least 1.
    pub val_per_class: usize,
    /// The shorter side of an image, pixels.
    pub side: usize,
    /// What the images are a function of.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { classes: 8, train_per_class: 60, val_per_class: 16, side: 48, seed: 0 }
    }
}

/// Writes the three archives into `dir`, which is made where needed. Files that are there are replaced.
///
/// # Errors
/// [`Error::Setting`] for a configuration outside its domain, [`Error::Io`] where a file cannot be written.
pub fn write(dir: &Path, config: &Config) -> Result<(), Error> {
    fs::create_dir_all(dir).map_err(Error::io("make", dir))?;
    let wnids: Vec<String> = (0..config.classes).map(wnid).collect();
    let images = Images::new(config)?;
    let create = |name: &str| {
        let path = dir.join(name);
        File::create(&path).map_err(Error::io("create", &path)).map(|file| (path, file))
    };
    let (path, file) = create(TRAIN_TAR)?;
    images.train(file, &wnids, config).map_err(Error::io("write", &path))?;
    let (path, file) = create(VAL_TAR)?;
    let truth = images.val(file, config).map_err(Error::io("write", &path))?;
    let (path, file) = create(&format!("{KIT}.tar.gz"))?;
    kit(file, &meta_mat(&wnids, "ILSVRC2012_ID"), &truth).map_err(Error::io("write", &path))?;
    let (path, mut file) = create(MARK)?;
    file.write_all(b"These archives were generated: they hold no photographs.\n").map_err(Error::io("write", &path))
}

/// Names that look like WordNet's and do not come in the order of their ILSVRC ids.
fn wnid(class: usize) -> String {
    format!("n{:08}", 10_000_000 + (class * 7 + 3) % 11 * 1000 + class)
}

/// The images, in three sizes each.
struct Images {
    train: Vec<SyntheticImages>,
    val: Vec<SyntheticImages>,
}

impl Images {
    fn new(config: &Config) -> Result<Self, Error> {
        let side = config.side;
        let sizes = [(side, side * 4 / 3), (side * 3 / 2, side), (side, side)];
        let settings: Vec<SyntheticConfig> = sizes
            .into_iter()
            .map(|(height, width)| SyntheticConfig {
                image_size: ImageSize { height, width },
                classes: config.classes,
                train_len: config.classes * config.train_per_class,
                test_len: config.classes * config.val_per_class,
                noise: NOISE,
                seed: config.seed,
            })
            .collect();
        let train = settings.iter().map(SyntheticImages::train).collect::<Result<_, Error>>()?;
        let val = settings.iter().map(SyntheticImages::test).collect::<Result<_, Error>>()?;
        Ok(Self { train, val })
    }

    fn train(&self, file: File, wnids: &[String], config: &Config) -> std::io::Result<()> {
        let mut outer = Builder::new(file);
        for (class, wnid) in wnids.iter().enumerate() {
            let mut inner = Builder::new(Vec::new());
            for number in 0..config.train_per_class {
                let bytes = encoded(&self.train, number * config.classes + class, (class, number))?;
                append(&mut inner, &format!("{wnid}_{number}.JPEG"), &bytes)?;
            }
            append(&mut outer, &format!("{wnid}.tar"), &inner.into_inner()?)?;
        }
        outer.into_inner()?.sync_all()
    }

    /// Writes the validation images; the ILSVRC ids of their classes as the ground truth's text.
    fn val(&self, file: File, config: &Config) -> std::io::Result<String> {
        let mut tar = Builder::new(file);
        let mut truth = String::new();
        for number in 0..config.classes * config.val_per_class {
            let bytes = encoded(&self.val, number, (usize::MAX, number))?;
            append(&mut tar, &format!("ILSVRC2012_val_{:08}.JPEG", number + 1), &bytes)?;
            truth.push_str(&format!("{}\n", number % config.classes + 1));
        }
        tar.into_inner()?.sync_all()?;
        Ok(truth)
    }
}

/// An image as a file.
fn encoded(sets: &[SyntheticImages], index: usize, place: (usize, usize)) -> std::io::Result<Vec<u8>> {
    let set = &sets[index % sets.len()];
    let size = set.image_size();
    let mut pixels = vec![0; size.len()];
    set.read(index, &mut pixels).map_err(std::io::Error::other)?;
    let image = RgbImage::from_raw(size.width as u32, size.height as u32, pixels);
    let mut image = DynamicImage::from(image.ok_or_else(|| std::io::Error::other("an image of another size"))?);
    let mut bytes = std::io::Cursor::new(Vec::new());
    match place {
        (0, 0) => image.write_to(&mut bytes, ImageFormat::Png).map_err(std::io::Error::other)?,
        _ => {
            if place == (0, 1) {
                image = image.into_luma8().into();
            }
            image.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, 92)).map_err(std::io::Error::other)?;
        }
    }
    Ok(bytes.into_inner())
}

fn append<W: Write>(tar: &mut Builder<W>, name: &str, contents: &[u8]) -> std::io::Result<()> {
    let mut header = Header::new_ustar();
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, name, contents)
}

fn kit(file: File, meta: &[u8], truth: &str) -> std::io::Result<()> {
    let mut tar = Builder::new(GzEncoder::new(file, Compression::default()));
    append(&mut tar, &format!("{KIT}/data/meta.mat"), meta)?;
    append(&mut tar, &format!("{KIT}/data/ILSVRC2012_validation_ground_truth.txt"), truth.as_bytes())?;
    tar.into_inner()?.finish()?.sync_all()
}

/// A `meta.mat` as the kit's: a struct array `synsets` of the classes, and of a synset above them. `id` names its field
/// of numbers.
pub(super) fn meta_mat(wnids: &[String], id: &str) -> Vec<u8> {
    let fields = [id, "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"];
    let mut names = Vec::new();
    for field in fields {
        let mut name = field.as_bytes().to_vec();
        name.resize(32, 0);
        names.extend(name);
    }
    let synsets = wnids.len() + 1;
    let mut body = matrix_head(2, [synsets as u32, 1], "synsets");
    body.extend(element(5, &32_u32.to_le_bytes()));
    body.extend(element(1, &names));
    let number = |value: usize| matrix(6, [1, 1], element(9, &(value as f64).to_le_bytes()));
    let text = |text: &str| {
        let units: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        matrix(4, [1, text.len() as u32], element(4, &units))
    };
    let above = "n00001740".to_owned();
    for (i, wnid) in wnids.iter().chain([&above]).enumerate() {
        let children = if i < wnids.len() { 0 } else { wnids.len() };
        body.extend([number(i + 1), text(wnid), text("a shape and a texture"), text("generated")].concat());
        body.extend([number(children), number(0), number(usize::from(children > 0)), number(0)].concat());
    }
    let mut file = b"MATLAB 5.0 MAT-file, generated".to_vec();
    file.resize(124, b' ');
    file.extend([0, 1, b'I', b'M']);
    file.extend(element(14, &body));
    file
}

/// A tag and its data, padded.
fn element(kind: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = [kind.to_le_bytes(), (data.len() as u32).to_le_bytes()].concat();
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

fn matrix_head(class: u32, dimensions: [u32; 2], name: &str) -> Vec<u8> {
    let flags = [class.to_le_bytes(), [0; 4]].concat();
    [element(6, &flags), element(5, &dimensions.map(u32::to_le_bytes).concat()), element(1, name.as_bytes())].concat()
}

fn matrix(class: u32, dimensions: [u32; 2], contents: Vec<u8>) -> Vec<u8> {
    element(14, &[matrix_head(class, dimensions, ""), contents].concat())
}
