//! An archive from one of several places onto this disk, whole and checked. What has arrived is kept in a `.part` file,
//! so that a later attempt, or a later process, asks the server for the rest alone. A file whose size or checksum is
//! wrong is deleted at once: it refuses to hand out anything that differs from the manifest.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::Response;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, RANGE};

use super::{FetchError, FetchOptions, Progress, is_url, urls};
use crate::Error;
use crate::manifest::{Archive, Manifest};

/// The archive's file: in the folder that `from` names, or downloaded into `root`.
pub(super) fn obtain(
    manifest: &Manifest,
    archive: &Archive,
    root: &Path,
    options: &FetchOptions,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, FetchError> {
    let mut tried = Vec::new();
    if let Some(from) = options.from.as_deref().filter(|from| !is_url(from)) {
        progress(Progress::Trying { place: from });
        let given = Path::new(from);
        let file = if given.is_file() { given.to_path_buf() } else { given.join(&archive.file) };
        match if file.is_file() { check(archive, &file, progress)? } else { Some("no such file".to_owned()) } {
            None => return Ok(file),
            Some(reason) => tried.push((file.display().to_string(), reason)),
        }
    } else {
        let file = root.join(&archive.file);
        if file.is_file() && check(archive, &file, progress)?.is_none() {
            return Ok(file);
        }
        let part = root.join(format!("{}.part", archive.file));
        let limit = archive.bytes.unwrap_or(manifest.max_unpacked_bytes);
        for url in urls(archive, options) {
            progress(Progress::Trying { place: &url });
            let mut download = Download { url: &url, part: &part, archive, limit, options, progress };
            match download.run()? {
                None => {
                    fs::rename(&part, &file).map_err(Error::io("rename", &part))?;
                    return Ok(file);
                }
                Some(reason) => tried.push((url, reason)),
            }
        }
    }
    Err(FetchError::Unavailable { dataset: manifest.title.clone(), file: archive.file.clone(), tried })
}

/// Why a file is not the archive, or nothing where it is.
fn check(archive: &Archive, file: &Path, progress: &mut dyn FnMut(Progress<'_>)) -> Result<Option<String>, Error> {
    let size = length(file)?;
    if let Some(expected) = archive.bytes.filter(|&expected| expected != size) {
        return Ok(Some(format!("{size} bytes, expected {expected}")));
    }
    let Some(expected) = &archive.sha256 else {
        progress(Progress::Unchecked);
        return Ok(None);
    };
    progress(Progress::Checking);
    let mut hash = Sha256::new();
    let mut opened = File::open(file).map_err(Error::io("open", file))?;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = opened.read(&mut buffer).map_err(Error::io("read", file))?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((found != *expected).then(|| format!("sha256 {found}, expected {expected}")))
}

fn length(file: &Path) -> Result<u64, Error> {
    match fs::metadata(file) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Error::io("inspect", file)(error)),
    }
}

/// One URL's download into its `.part` file.
struct Download<'a> {
    url: &'a str,
    part: &'a Path,
    archive: &'a Archive,
    /// More bytes than this are not accepted.
    limit: u64,
    options: &'a FetchOptions,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

/// How one request ended.
enum End {
    /// The body ended where it should, as far as is known.
    Complete,
    /// It broke off; asking again may help.
    Broken(String),
    /// Asking again will not help.
    Refused(String),
}

impl Download<'_> {
    /// Why this URL does not give the archive, or nothing once the `.part` file is whole and right.
    fn run(&mut self) -> Result<Option<String>, Error> {
        let was_resumed = length(self.part)? > 0;
        let reason = self.whole()?;
        if was_resumed && reason.is_some() && length(self.part)? == 0 {
            // The first part may have been another file's: once more from the beginning.
            (self.progress)(Progress::Restarting);
            return self.whole();
        }
        Ok(reason)
    }

    fn whole(&mut self) -> Result<Option<String>, Error> {
        let agent = agent(self.url, self.options.silence);
        if length(self.part)? > self.limit {
            fs::remove_file(self.part).map_err(Error::io("remove", self.part))?;
        }
        let (mut best, mut failures) = (length(self.part)?, 0);
        while self.archive.bytes.is_none_or(|bytes| bytes != length(self.part).unwrap_or(0)) {
            match self.request(&agent)? {
                End::Complete => break,
                End::Refused(reason) => return Ok(Some(reason)),
                End::Broken(reason) => {
                    let have = length(self.part)?;
                    failures = if have > best { 1 } else { failures + 1 };
                    best = best.max(have);
                    if failures >= self.options.attempts {
                        return Ok(Some(format!("{reason} ({failures} attempts; {have} bytes are kept)")));
                    }
                    (self.progress)(Progress::Retrying { reason: &reason });
                    std::thread::sleep(self.options.pause * 2_u32.pow((failures - 1).min(6)));
                }
            }
        }
        let reason = check(self.archive, self.part, self.progress)?;
        if reason.is_some() {
            fs::remove_file(self.part).map_err(Error::io("remove", self.part))?;
        }
        Ok(reason)
    }

    /// Asks for what is missing and appends it.
    fn request(&mut self, agent: &Agent) -> Result<End, Error> {
        let have = length(self.part)?;
        let mut request = agent.get(self.url);
        if have > 0 {
            request = request.header(RANGE, format!("bytes={have}-"));
        }
        let response = match request.call() {
            Ok(response) => response,
            Err(error @ (ureq::Error::BadUri(_) | ureq::Error::TlsRequired)) => {
                return Ok(End::Refused(error.to_string()));
            }
            Err(error) => return Ok(End::Broken(error.to_string())),
        };
        let status = response.status();
        let start = match status.as_u16() {
            200 => 0,
            206 if range_start(&response) == Some(have) => have,
            206 | 416 if have > 0 => {
                fs::remove_file(self.part).map_err(Error::io("remove", self.part))?;
                (self.progress)(Progress::Restarting);
                return Ok(End::Broken(format!("the server cannot continue at byte {have}")));
            }
            408 | 429 | 500.. => return Ok(End::Broken(status.to_string())),
            _ => return Ok(End::Refused(status.to_string())),
        };
        match (have, start) {
            (0, _) => {}
            (_, 0) => (self.progress)(Progress::Restarting),
            _ => (self.progress)(Progress::Resuming { from: start }),
        }
        let announced = header(&response, CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let total = announced.map(|rest| start.saturating_add(rest)).or(self.archive.bytes);
        if let (Some(total), Some(expected)) = (total, self.archive.bytes)
            && total != expected
        {
            return Ok(End::Refused(format!("the server offers {total} bytes, expected {expected}")));
        }
        self.receive(response.into_body().into_reader(), start, total)
    }

    fn receive(&mut self, mut body: impl Read, start: u64, total: Option<u64>) -> Result<End, Error> {
        let mut options = OpenOptions::new();
        let mut part = options.create(true).write(true).truncate(false).open(self.part);
        if let Ok(file) = &mut part {
            file.set_len(start).map_err(Error::io("shorten", self.part))?;
        }
        drop(part.map_err(Error::io("open", self.part))?);
        let mut part = OpenOptions::new().append(true).open(self.part).map_err(Error::io("open", self.part))?;
        let (mut bytes, mut buffer) = (start, vec![0; 1 << 16]);
        loop {
            (self.progress)(Progress::Received { bytes, total });
            let read = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Ok(End::Broken(format!("broke off after {bytes} bytes: {error}"))),
            };
            bytes += read as u64;
            if bytes > self.limit {
                drop(part);
                fs::remove_file(self.part).map_err(Error::io("remove", self.part))?;
                return Ok(End::Refused(format!("more than the {} bytes expected", self.limit)));
            }
            part.write_all(&buffer[..read]).map_err(Error::io("write", self.part))?;
        }
        part.sync_all().map_err(Error::io("sync", self.part))?;
        Ok(match total {
            Some(total) if bytes < total => End::Broken(format!("broke off after {bytes} of {total} bytes")),
            _ => End::Complete,
        })
    }
}

fn header(response: &Response<ureq::Body>, name: ureq::http::HeaderName) -> Option<&str> {
    response.headers().get(name)?.to_str().ok()
}

/// S of a header `Content-Range: bytes S-E/T`.
fn range_start(response: &Response<ureq::Body>) -> Option<u64> {
    header(response, CONTENT_RANGE)?.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// A client that gives up on silence, never on slowness; this machine's own servers are not asked for through a proxy.
fn agent(url: &str, silence: Duration) -> Agent {
    let mut config = Agent::config_builder()
        .http_status_as_error(false)
        .user_agent(concat!("darts-data/", env!("CARGO_PKG_VERSION")))
        .timeout_resolve(Some(silence))
        .timeout_connect(Some(silence))
        .timeout_recv_response(Some(silence))
        .timeout_per_read(Some(silence));
    let host = url.split("://").nth(1).unwrap_or_default();
    if ["127.0.0.1", "localhost", "[::1]"].iter().any(|local| host.starts_with(local)) {
        config = config.proxy(None);
    }
    config.build().into()
}
