//! Reports in a real browser, at the widths of a desktop, a tablet and a phone: nothing sticks out sideways, and something is drawn.

use std::{
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use darts_runs::report::{write_pipeline, write_run};
use darts_tests::{
    browser::Chromium,
    run_folders::{RunFolder, write_experiment},
};
use tempfile::tempdir;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Windows of a browser are no narrower than this; a phone is a frame within one.
const WINDOW: u32 = 1300;

/// A copy of a page that opens everything that is folded and tells the frame around it how large it is. `extra` is put at its end.
fn measuring_copy(page: &Path, number: usize, extra: &str) -> Result<String> {
    let html = fs::read_to_string(page)?;
    // The policy forbids scripts; the copy needs its one.
    let policy = html.find("<meta http-equiv=\"Content-Security-Policy\"").ok_or("the page has no policy")?;
    let end = policy + html[policy..].find("/>").ok_or("the policy has no end")? + 2;
    let script = format!(
        "{extra}<script>addEventListener('load', () => {{ for (const fold of document.querySelectorAll('details')) fold.open = true; const page = document.documentElement; \
         parent.postMessage(['{number}', innerWidth, page.scrollWidth, page.scrollHeight].join(' '), '*') }})</script>"
    );
    Ok([&html[..policy], &html[end..]].concat().replace("</body>", &format!("{script}</body>")))
}

/// For each (page, width, extra) the width of its window and the width and height of its content, from one start of the browser.
fn measure(chromium: &Chromium, folder: &Path, pages: &[(&Path, u32, &str)]) -> Result<Vec<[u32; 3]>> {
    let mut frames = String::new();
    for (number, (page, width, extra)) in pages.iter().enumerate() {
        fs::write(folder.join(format!("copy-{number}.html")), measuring_copy(page, number, extra)?)?;
        write!(frames, "<iframe src='copy-{number}.html' style='border:0;width:{width}px;height:1600px'></iframe>")?;
    }
    let outer = folder.join("frames.html");
    let listen = "addEventListener('message', event => document.body.insertAdjacentHTML('beforeend', '<p class=size>' + event.data + '</p>'))";
    fs::write(
        &outer,
        format!("<!DOCTYPE html><html><body style='margin:0'><script>{listen}</script>{frames}</body></html>"),
    )?;
    let dom = chromium.dom(&outer, WINDOW)?;
    let mut sizes = vec![None; pages.len()];
    for line in dom.split("<p class=\"size\">").skip(1) {
        let numbers: Vec<u32> = line
            .split("</p>")
            .next()
            .unwrap_or_default()
            .split(' ')
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        if let [number, inner, width, height] = numbers[..] {
            sizes[number as usize] = Some([inner, width, height]);
        }
    }
    sizes
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| format!("not every page reported its size: {dom}").into())
}

#[test]
fn reports_fit_a_desktop_a_tablet_and_a_phone_in_a_browser() -> Result<()> {
    let Some(chromium) = Chromium::find() else {
        println!("SKIPPED: report renders: no chromium, chromium-browser or google-chrome on the path");
        return Ok(());
    };
    let dir = tempdir()?;
    let path = |name: &str| dir.path().join(name);
    write_experiment(&path("cifar"), "cifar10", 2)?;
    write_experiment(&path("quick"), "synthetic-images", 1)?;
    RunFolder::search(3).on("ptb").ending_at(110.0).stopped_after(4).write(&path("text"))?;
    RunFolder::training(0).on("imagenet").write(&path("imagenet"))?;
    let pages: [PathBuf; 4] = [
        write_pipeline(&path("cifar"), "cifar10")?,
        write_pipeline(&path("quick"), "synthetic-images")?,
        write_run(&path("text"))?,
        write_run(&path("imagenet"))?,
    ];
    let mut cases: Vec<(&Path, u32, &str)> = Vec::new();
    for page in &pages {
        cases.extend([1280, 768, 390].map(|width| (page.as_path(), width, "")));
    }
    // Whether too wide a page would be seen at all.
    cases.push((&pages[0], 390, "<div style='width:500px'>too wide</div>"));
    let sizes = measure(&chromium, dir.path(), &cases)?;
    for ((page, width, extra), [inner, content, height]) in cases.iter().zip(sizes) {
        assert_eq!(inner, *width);
        let wide = content > *width;
        assert_eq!(wide, !extra.is_empty(), "{}: {content} pixels wide in a window of {width}", page.display());
        assert!(height > 1500, "{}: only {height} pixels high", page.display());
    }
    for dark in [false, true] {
        let picture = path("picture.png");
        chromium.screenshot(&pages[0], (1280, 1600), dark, &picture)?;
        let bytes = fs::read(&picture)?;
        // A page without content compresses to a few kilobytes.
        assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 40_000, "{} bytes", bytes.len());
    }
    Ok(())
}
