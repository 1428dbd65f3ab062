//! A headless Chromium for tests of pages, if the machine has one. It gets a profile of its own in a temporary folder, and no network is asked for anything.

use std::{
    env,
    error::Error,
    path::{Path, PathBuf},
    process::Command,
};

/// A Chromium on this machine.
#[derive(Clone, Debug)]
pub struct Chromium {
    program: PathBuf,
}

impl Chromium {
    /// The first of the usual names on the path.
    pub fn find() -> Option<Self> {
        let path = env::var_os("PATH")?;
        ["chromium", "chromium-browser", "google-chrome"]
            .iter()
            .flat_map(|name| env::split_paths(&path).map(move |folder| folder.join(name)))
            .find(|program| program.is_file())
            .map(|program| Self { program })
    }

    /// The document's HTML after its scripts have run, in a window of `width` pixels.
    ///
    /// # Errors
    /// If the browser does not start, fails, or prints no text.
    pub fn dom(&self, page: &Path, width: u32) -> Result<String, Box<dyn Error>> {
        self.run(page, width, &["--dump-dom".to_owned()])
    }

    /// A PNG of the page at the width of a window.
    ///
    /// # Errors
    /// If the browser does not start or fails.
    pub fn screenshot(
        &self,
        page: &Path,
        (width, height): (u32, u32),
        dark: bool,
        to: &Path,
    ) -> Result<(), Box<dyn Error>> {
        let mut options = vec![
            format!("--screenshot={}", to.display()),
            format!("--window-size={width},{height}"),
            "--hide-scrollbars".to_owned(),
        ];
        if dark {
            options.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        self.run(page, width, &options).map(|_| ())
    }

    fn run(&self, page: &Path, width: u32, options: &[String]) -> Result<String, Box<dyn Error>> {
        let profile = tempfile::tempdir()?;
        let output = Command::new(&self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args(["--disable-sync", "--hide-scrollbars"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--window-size={width},900"))
            .args(options)
            .arg(format!("file://{}", page.display()))
            .output()?;
        if !output.status.success() {
            return Err(format!(
                "{}: {}: {}",
                self.program.display(),
                output.status,
                String::from_utf8_lossy(&output.stderr)
            )
            .into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}
