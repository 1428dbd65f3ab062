//! Decodes image files at their own size and writes them as PPM files into a folder, to be compared with another decoder:
//! `cargo run --release -p darts-data --example decode -- OUT FILE…`. Without arguments it decodes an image of its own.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use darts_data::ImageSize;
use darts_data::image_folder::read_image;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let Some(out) = arguments.next() else {
        let file = Path::new("gradient.jpg");
        image::RgbImage::from_fn(96, 64, |x, y| image::Rgb([2 * x as u8, 3 * y as u8, 128])).save(file)?;
        decode(file, Path::new("gradient.ppm"))?;
        println!("gradient.jpg and, decoded, gradient.ppm");
        return Ok(());
    };
    fs::create_dir_all(&out)?;
    for (number, file) in arguments.enumerate() {
        decode(&file, &out.join(format!("{number}.ppm")))?;
    }
    Ok(())
}

fn decode(file: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let (width, height) = image::ImageReader::open(file)?.with_guessed_format()?.into_dimensions()?;
    let size = ImageSize { height: height as usize, width: width as usize };
    let mut pixels = vec![0; size.len()];
    read_image(file, size, &mut pixels)?;
    let mut ppm = format!("P6\n{width} {height}\n255\n").into_bytes();
    ppm.extend(pixels);
    Ok(fs::write(out, ppm)?)
}
