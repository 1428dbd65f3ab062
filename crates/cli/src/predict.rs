//! `darts predict`: the likeliest classes of image files.

use serde_json::json;

use crate::args::PredictArgs;
use crate::failure::{Result, print};
use crate::meant;

pub(crate) fn run(typed: &PredictArgs) -> Result<()> {
    let options = meant::machine(&typed.machine);
    for prediction in darts_runs::predict(&typed.run_dir, &typed.images, &options)? {
        if typed.json {
            let top: Vec<_> =
                prediction.top.iter().map(|(class, p)| json!({ "class": class, "probability": p })).collect();
            print(&json!({ "image": prediction.image, "top": top }).to_string())?;
        } else {
            let top: Vec<_> = prediction.top.iter().map(|(class, p)| format!("{class} {:.1} %", 100.0 * p)).collect();
            print(&format!("{}: {}", prediction.image.display(), top.join(", ")))?;
        }
    }
    Ok(())
}
