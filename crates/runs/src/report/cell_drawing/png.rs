//! Drawings as pixels, with an embedded font: the result is the same on every machine, whatever fonts it has.

use std::sync::{Arc, OnceLock};

use resvg::{
    tiny_skia::{Pixmap, Transform},
    usvg::{Options, Tree, fontdb},
};

use crate::report::ReportError;

/// Sides beyond this are refused before memory is asked for.
const MAX_SIDE: f32 = 16_384.0;

/// The embedded face is a light one: a thin outline brings it to a regular weight.
const BOLDER: &str = ".cell text{stroke:#17202c;stroke-width:0.35px}.cell .cell-title{stroke-width:0.7px}.cell .cell-name{stroke-width:1px}";

/// Renders an SVG (in its light colours) to a PNG file's bytes; `scale` is pixels per SVG unit, 2 is good for screens.
///
/// # Errors
/// [`ReportError::Drawing`] for text that is no SVG, a scale that is not positive, or a picture with more than 16,384 pixels on a side.
pub fn png(svg: &str, scale: f32) -> Result<Vec<u8>, ReportError> {
    let fail = |reason: String| ReportError::Drawing { reason };
    let options = Options { fontdb: fonts(), style_sheet: Some(BOLDER.to_owned()), ..Options::default() };
    let tree = Tree::from_str(svg, &options).map_err(|error| fail(error.to_string()))?;
    let (width, height) = ((tree.size().width() * scale).ceil(), (tree.size().height() * scale).ceil());
    if !(1.0..=MAX_SIDE).contains(&width) || !(1.0..=MAX_SIDE).contains(&height) {
        return Err(fail(format!(
            "scale {scale} makes a picture of {width} × {height} pixels; expected 1 to {MAX_SIDE} on a side"
        )));
    }
    let mut pixels = Pixmap::new(width as u32, height as u32)
        .ok_or_else(|| fail(format!("no memory for {width} × {height} pixels")))?;
    resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| fail(error.to_string()))
}

fn fonts() -> Arc<fontdb::Database> {
    static FONTS: OnceLock<Arc<fontdb::Database>> = OnceLock::new();
    FONTS
        .get_or_init(|| {
            let mut fonts = fontdb::Database::new();
            fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
            let family = fonts.faces().next().and_then(|face| face.families.first()).map(|(name, _)| name.clone());
            if let Some(family) = family {
                fonts.set_sans_serif_family(family);
            }
            Arc::new(fonts)
        })
        .clone()
}
