//! `darts predict`: the likeliest classes of image files, or text that goes on from a prompt.

use darts_runs::{RunRecord, Writing};
use serde_json::json;

use crate::args::PredictArgs;
use crate::failure::{Result, print, usage};
use crate::meant;

pub(crate) fn run(typed: &PredictArgs) -> Result<()> {
    let PredictArgs { run_dir, images: files, prompt, length, temperature, top_k, seed, .. } = typed;
    let is_writing = prompt.is_some() || length.is_some() || temperature.is_some() || top_k.is_some() || seed.is_some();
    if files.is_empty() && !is_writing {
        return Err(usage(
            "predict needs IMAGES for a network trained on images, --prompt TEXT for one trained on text",
        ));
    }
    match (RunRecord::read(run_dir)?.is_text(), files.is_empty(), is_writing) {
        (true, true, _) => text(typed),
        (true, false, _) => Err(usage(format!("{} was trained on text: it takes --prompt TEXT", run_dir.display()))),
        (false, false, false) => images(typed),
        (false, ..) => Err(usage(format!("{} was trained on images: it takes image files", run_dir.display()))),
    }
}

fn images(typed: &PredictArgs) -> Result<()> {
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

fn text(typed: &PredictArgs) -> Result<()> {
    let default = Writing::default();
    let writing = Writing {
        prompt: typed.prompt.clone().unwrap_or_default(),
        length: typed.length.unwrap_or(default.length),
        temperature: typed.temperature.unwrap_or(default.temperature),
        top_k: typed.top_k,
        seed: typed.seed.unwrap_or(default.seed),
    };
    let text = darts_runs::write_text(&typed.run_dir, &writing, &meant::machine(&typed.machine))?;
    if typed.json {
        return print(&json!({ "prompt": writing.prompt, "text": text }).to_string());
    }
    print(&text)
}
