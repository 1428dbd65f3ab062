//! The images of one split, in memory or on disk, and what they are normalized with. Whether pixels are kept depends
//! on the memory budget alone, and never changes what is read.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::index::Entry;
use super::{BadImage, ImageFolderConfig};
use crate::Error;
use crate::dataset::{CHANNELS, Dataset, ImageSize, Normalization};
use crate::picture::{Choose, decode};
use crate::transform::Region;

/// Training images, the first in the dataset's order, that mean and standard deviation are computed from.
const NORMALIZATION_IMAGES: usize = 1024;
/// Larger files are no photographs: they are refused unread.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The images of one split.
pub struct ImageSet {
    entries: Vec<Entry>,
    /// Decoded images, one after the other, or nothing where they are read from disk each time.
    pixels: Option<Vec<u8>>,
    size: ImageSize,
    class_names: Arc<Vec<String>>,
    normalization: Normalization,
}

impl ImageSet {
    /// The file of an example.
    ///
    /// # Panics
    /// If `index` is not below the number of examples.
    pub fn path(&self, index: usize) -> &Path {
        &self.entries[index].path
    }

    /// True where the decoded images are kept in memory.
    pub fn is_in_memory(&self) -> bool {
        self.pixels.is_some()
    }
}

impl Dataset for ImageSet {
    fn len(&self) -> usize {
        self.entries.len()
    }

    fn image_size(&self) -> ImageSize {
        self.size
    }

    fn class_names(&self) -> &[String] {
        &self.class_names
    }

    fn normalization(&self) -> Normalization {
        self.normalization
    }

    fn label(&self, index: usize) -> u32 {
        self.entries[index].label
    }

    fn read(&self, index: usize, pixels: &mut [u8]) -> Result<(), Error> {
        match &self.pixels {
            Some(kept) => pixels.copy_from_slice(&kept[index * self.size.len()..][..self.size.len()]),
            None => {
                let path = &self.entries[index].path;
                read_image(path, self.size, pixels).map_err(|reason| Error::Image { path: path.clone(), reason })?;
            }
        }
        Ok(())
    }

    /// From the file, even where images are kept in memory: those have lost what lay outside their centre.
    fn read_region(&self, index: usize, choose: Choose, pixels: &mut [u8]) -> Result<(), Error> {
        let path = &self.entries[index].path;
        read_region(path, self.size, choose, pixels).map_err(|reason| Error::Image { path: path.clone(), reason })
    }

    fn name(&self, index: usize) -> String {
        self.entries[index].path.display().to_string()
    }
}

/// Makes the sets of three splits (the first is the training split) and lists the images that were left out.
pub(super) fn load(
    splits: [Vec<Entry>; 3],
    class_names: Vec<String>,
    config: &ImageFolderConfig,
) -> Result<([ImageSet; 3], Vec<BadImage>), Error> {
    let (size, class_names) = (config.image_size, Arc::new(class_names));
    let count: usize = splits.iter().map(Vec::len).sum();
    let keep = count as u64 * size.len() as u64 <= config.memory_budget;
    let normalization = normalization(&splits[0][..splits[0].len().min(NORMALIZATION_IMAGES)], size);
    let survey = Survey { size, allowed: config.max_bad_images, found: AtomicUsize::new(0) };
    let mut left_out = Vec::new();
    let mut load_split = |mut entries: Vec<Entry>| -> Result<ImageSet, Error> {
        let mut pixels = keep.then(|| vec![0; entries.len() * size.len()]);
        let bad = match &mut pixels {
            Some(pixels) => survey.decode(&entries, pixels)?,
            None if config.max_bad_images > 0 => survey.check(&entries)?,
            None => Vec::new(),
        };
        let mut is_good = vec![true; entries.len()];
        bad.iter().for_each(|(number, _)| is_good[*number] = false);
        if let Some(pixels) = &mut pixels {
            compact(pixels, size.len(), &is_good);
        }
        let mut good = is_good.into_iter();
        entries.retain(|_| good.next().unwrap_or(true));
        left_out.extend(bad.into_iter().map(|(_, bad)| bad));
        Ok(ImageSet { entries, pixels, size, class_names: class_names.clone(), normalization })
    };
    let [train, valid, test] = splits;
    let sets = [load_split(train)?, load_split(valid)?, load_split(test)?];
    Ok((sets, left_out))
}

/// Moves the good images' pixels together and drops the rest.
fn compact(pixels: &mut Vec<u8>, image: usize, is_good: &[bool]) {
    let mut kept = 0;
    for number in (0..is_good.len()).filter(|&number| is_good[number]) {
        if number != kept {
            pixels.copy_within(number * image..(number + 1) * image, kept * image);
        }
        kept += 1;
    }
    pixels.truncate(kept * image);
}

/// Reads many images at once and counts the unreadable ones, over all splits.
struct Survey {
    size: ImageSize,
    allowed: usize,
    found: AtomicUsize,
}

type Numbered = Vec<(usize, BadImage)>;

impl Survey {
    /// Decodes every entry into its place in `pixels`.
    fn decode(&self, entries: &[Entry], pixels: &mut [u8]) -> Result<Numbered, Error> {
        let images = pixels.par_chunks_mut(self.size.len()).zip(entries).enumerate();
        self.verdict(images.filter_map(|(number, (pixels, entry))| self.attempt(number, entry, pixels)).collect())
    }

    /// Decodes every entry and keeps nothing.
    fn check(&self, entries: &[Entry]) -> Result<Numbered, Error> {
        let scratch = || vec![0; self.size.len()];
        let images = entries
            .par_iter()
            .enumerate()
            .map_init(scratch, |pixels, (number, entry)| self.attempt(number, entry, pixels));
        self.verdict(images.flatten().collect())
    }

    /// Nothing for a good image, and once there are too many bad ones.
    fn attempt(&self, number: usize, entry: &Entry, pixels: &mut [u8]) -> Option<(usize, BadImage)> {
        if self.found.load(Ordering::Relaxed) > self.allowed {
            return None;
        }
        let reason = read_image(&entry.path, self.size, pixels).err()?;
        self.found.fetch_add(1, Ordering::Relaxed);
        Some((number, BadImage { path: entry.path.clone(), reason }))
    }

    fn verdict(&self, bad: Numbered) -> Result<Numbered, Error> {
        let found = self.found.load(Ordering::Relaxed);
        if found <= self.allowed {
            return Ok(bad);
        }
        let mut bad = bad.into_iter().map(|(_, bad)| bad);
        if self.allowed == 0
            && let Some(BadImage { path, reason }) = bad.next()
        {
            return Err(Error::Image { path, reason });
        }
        let first = bad.take(3).map(|BadImage { path, reason }| format!("{}: {reason}", path.display())).collect();
        Err(Error::TooManyBadImages { found, allowed: self.allowed, first })
    }
}

/// Mean and standard deviation over the pixels of these images, unreadable ones left out; at least 1/255 apart, so
/// that images of a single colour can be normalized.
fn normalization(entries: &[Entry], size: ImageSize) -> Normalization {
    let (images, sums) = entries
        .par_iter()
        .map_init(
            || vec![0; size.len()],
            |pixels, entry| {
                let mut sums = [[0_u64; 2]; CHANNELS];
                let is_readable = read_image(&entry.path, size, pixels).is_ok();
                if is_readable {
                    for pixel in pixels.chunks_exact(CHANNELS) {
                        for ([sum, squares], &value) in sums.iter_mut().zip(pixel) {
                            *sum += u64::from(value);
                            *squares += u64::from(value) * u64::from(value);
                        }
                    }
                }
                (u64::from(is_readable), sums)
            },
        )
        .reduce(
            || (0, [[0; 2]; CHANNELS]),
            |(a, x), (b, y)| {
                (a + b, std::array::from_fn(|channel| std::array::from_fn(|k| x[channel][k] + y[channel][k])))
            },
        );
    let count = (images.max(1) * (size.height * size.width) as u64) as f64;
    let mean = sums.map(|[sum, _]| sum as f64 / count / 255.0);
    let square = sums.map(|[_, squares]| squares as f64 / count / (255.0 * 255.0));
    let std = std::array::from_fn(|c| (square[c] - mean[c] * mean[c]).max(0.0).sqrt().max(1.0 / 255.0));
    Normalization { mean, std }
}

/// Overwrites `pixels` with an image file's image; the error is the reason, without the file's name.
pub(super) fn read_image(path: &Path, size: ImageSize, pixels: &mut [u8]) -> Result<(), String> {
    read_region(path, size, &mut |source| Region::largest(source, size), pixels)
}

/// Overwrites `pixels` with the part of an image file's image that `choose` names.
pub(crate) fn read_region(path: &Path, size: ImageSize, choose: Choose, pixels: &mut [u8]) -> Result<(), String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| error.to_string())?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("the file has more than {MAX_FILE_BYTES} bytes"));
    }
    decode(&bytes, size, choose, pixels)
}
