//! Fetching from servers that are slow, break off, lie or are not there, and from folders of this machine.

mod server;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use darts_data::fetch::{FetchError, FetchOptions, Fetched, Progress, fetch};
use darts_data::manifest::{Archive, DataFile, Format, Manifest};
use flate2::Compression;
use flate2::write::GzEncoder;
use server::{Reply, Server};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Contents that do not compress, so that the archive is some 20,000 bytes.
fn contents() -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..20_000).map(|_| next()).collect()
}

fn gzip(tar: Vec<u8>) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut encoder, &tar).unwrap();
    encoder.finish().unwrap()
}

/// A tar with one entry of this raw name, which the tar crate's own writer would refuse.
fn tar_with(name: &[u8], kind: tar::EntryType, link: &str, contents: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(contents.len() as u64);
    header.set_mode(0o644);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    let mut builder = tar::Builder::new(Vec::new());
    builder.append(&header, contents).unwrap();
    builder.into_inner().unwrap()
}

fn archive() -> Vec<u8> {
    gzip(tar_with(b"tiny/a.bin", tar::EntryType::Regular, "", &contents()))
}

fn manifest(archive: &[u8], urls: &[String]) -> Manifest {
    let hash = Sha256::digest(archive).iter().map(|byte| format!("{byte:02x}")).collect();
    Manifest {
        name: "tiny".to_owned(),
        title: "Tiny".to_owned(),
        folder: "tiny".into(),
        archives: vec![Archive {
            file: "tiny.tar.gz".to_owned(),
            format: Format::TarGz,
            urls: urls.iter().map(|url| format!("{url}/data/tiny.tar.gz")).collect(),
            bytes: Some(archive.len() as u64),
            sha256: Some(hash),
        }],
        files: vec![DataFile { path: "a.bin".into(), bytes: Some(20_000) }],
        max_unpacked_bytes: 30_000,
        citation: String::new(),
    }
}

fn options() -> FetchOptions {
    let (silence, pause) = (Duration::from_millis(400), Duration::from_millis(5));
    FetchOptions { silence, pause, ..FetchOptions::default() }
}

/// The result, and the names of the events except `Received`.
fn run(manifest: &Manifest, root: &Path, options: &FetchOptions) -> (Result<Fetched, FetchError>, Vec<String>) {
    let mut events = Vec::new();
    let mut note = |event: Progress<'_>| {
        if !matches!(event, Progress::Received { .. }) {
            events.push(format!("{event:?}").split([' ', '{']).next().unwrap().to_owned());
        }
    };
    let result = fetch(manifest, root, options, &mut note);
    (result, events)
}

/// Fetches from a server with these replies into an empty folder and expects the whole dataset.
fn succeeds(replies: Vec<Reply>, part: Option<&[u8]>) -> (Server, Vec<String>) {
    let root = tempfile::tempdir().unwrap();
    if let Some(part) = part {
        fs::write(root.path().join("tiny.tar.gz.part"), part).unwrap();
    }
    let server = Server::start(archive(), replies);
    let manifest = manifest(&archive(), std::slice::from_ref(&server.url));
    let (result, events) = run(&manifest, root.path(), &options());
    assert_eq!(result.unwrap(), Fetched::New(root.path().join("tiny")), "{events:?}");
    assert_whole(&root);
    (server, events)
}

/// The dataset is there, and nothing that was needed on the way.
fn assert_whole(root: &TempDir) {
    assert_eq!(fs::read(root.path().join("tiny/a.bin")).unwrap(), contents());
    assert_eq!(names(root), [".tiny.lock", "tiny"]);
}

fn names(root: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(root.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn fails(manifest: &Manifest, root: &TempDir) -> String {
    let error = run(manifest, root.path(), &options()).0.unwrap_err();
    assert!(!root.path().join("tiny").exists());
    error.to_string()
}

#[test]
fn a_whole_download_is_unpacked_once_and_not_repeated() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(archive(), vec![Reply::Serve]);
    let manifest = manifest(&archive(), std::slice::from_ref(&server.url));
    let (result, events) = run(&manifest, root.path(), &options());
    assert_eq!(result.unwrap(), Fetched::New(root.path().join("tiny")));
    assert_eq!(events, ["Trying", "Checking", "Unpacking"]);
    assert_whole(&root);
    let again = run(&manifest, root.path(), &options()).0.unwrap();
    assert_eq!(again, Fetched::AlreadyThere(root.path().join("tiny")));
    assert_eq!(server.requests(), [("/data/tiny.tar.gz".to_owned(), None)]);
}

#[test]
fn progress_counts_to_the_archives_size() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(archive(), vec![Reply::Slow(3000, Duration::from_millis(1))]);
    let manifest = manifest(&archive(), std::slice::from_ref(&server.url));
    let mut counts = Vec::new();
    let mut note = |event: Progress<'_>| {
        if let Progress::Received { bytes, total } = event {
            assert_eq!(total, manifest.archives[0].bytes);
            counts.push(bytes);
        }
    };
    fetch(&manifest, root.path(), &options(), &mut note).unwrap();
    assert!(counts.is_sorted(), "{counts:?}");
    assert_eq!((counts[0], counts.last().copied()), (0, manifest.archives[0].bytes));
}

#[test]
fn a_slow_server_is_waited_for_beyond_the_silence_limit_in_all() {
    let begin = Instant::now();
    let (server, _) = succeeds(vec![Reply::Slow(1000, Duration::from_millis(25))], None);
    assert!(begin.elapsed() > Duration::from_millis(450), "{:?}", begin.elapsed());
    assert_eq!(server.ranges(), [None]);
}

#[test]
fn a_download_that_breaks_off_is_continued_where_it_was() {
    let replies = vec![Reply::CutAfter(7000), Reply::CutAfter(7000), Reply::Serve];
    let (server, events) = succeeds(replies, None);
    assert_eq!(server.ranges(), [None, Some(7000), Some(14_000)]);
    assert_eq!(events, ["Trying", "Retrying", "Resuming", "Retrying", "Resuming", "Checking", "Unpacking"]);
}

#[test]
fn a_server_that_falls_silent_is_asked_again_for_the_rest() {
    let (server, _) = succeeds(vec![Reply::SilentAfter(5000, Duration::from_millis(600)), Reply::Serve], None);
    assert_eq!(server.ranges(), [None, Some(5000)]);
}

#[test]
fn an_earlier_processs_partial_download_is_continued() {
    let (server, _) = succeeds(vec![Reply::Serve], Some(&archive()[..12_345]));
    assert_eq!(server.ranges(), [Some(12_345)]);
}

#[test]
fn a_complete_partial_download_needs_no_request() {
    let (server, _) = succeeds(vec![Reply::Status(500)], Some(&archive()));
    assert_eq!(server.requests(), []);
}

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_beginning() {
    let (server, events) = succeeds(vec![Reply::IgnoreRange], Some(&archive()[..12_345]));
    assert_eq!(server.ranges(), [Some(12_345)]);
    assert_eq!(events[1], "Restarting");
    succeeds(vec![Reply::Unannounced], Some(&archive()[..12_345]));
}

#[test]
fn a_server_that_refuses_the_range_is_read_from_the_beginning() {
    let (server, _) = succeeds(vec![Reply::Status(416), Reply::Serve], Some(&archive()[..12_345]));
    assert_eq!(server.ranges(), [Some(12_345), None]);
}

#[test]
fn a_partial_download_of_something_else_is_thrown_away() {
    let (server, events) = succeeds(vec![Reply::Serve], Some(&[7; 12_345]));
    assert_eq!(server.ranges(), [Some(12_345), None]);
    assert_eq!(events, ["Trying", "Resuming", "Checking", "Restarting", "Checking", "Unpacking"]);
    succeeds(vec![Reply::Serve], Some(&[7; 50_000]));
}

#[test]
fn a_busy_server_is_asked_again() {
    let (server, _) = succeeds(vec![Reply::Status(503), Reply::Status(429), Reply::Serve], None);
    assert_eq!(server.ranges(), [None; 3]);
}

#[test]
fn wrong_bytes_are_refused_with_both_checksums_and_not_kept() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(archive(), vec![Reply::WrongBytes]);
    let manifest = manifest(&archive(), std::slice::from_ref(&server.url));
    let error = fails(&manifest, &root);
    let expected = manifest.archives[0].sha256.clone().unwrap();
    assert!(error.contains("sha256") && error.contains(&expected) && error.contains("--from"), "{error}");
    assert!(!root.path().join("tiny.tar.gz.part").exists());
}

#[test]
fn a_file_of_another_size_is_refused_unread() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(contents(), vec![Reply::Serve]);
    let error = fails(&manifest(&archive(), std::slice::from_ref(&server.url)), &root);
    assert!(error.contains("the server offers 20000 bytes, expected"), "{error}");
    let server = Server::start(vec![1; 100_000], vec![Reply::Unannounced]);
    let error = fails(&manifest(&archive(), std::slice::from_ref(&server.url)), &root);
    assert!(error.contains("more than the"), "{error}");
}

#[test]
fn where_nobody_has_it_every_place_is_named_with_its_reason() {
    let root = tempfile::tempdir().unwrap();
    let (missing, dead) = (Server::start(Vec::new(), vec![Reply::Status(404)]), "http://127.0.0.1:1".to_owned());
    let manifest = manifest(&archive(), &[missing.url.clone(), dead.clone()]);
    let error = fails(&manifest, &root);
    assert!(error.starts_with("Tiny cannot be had: "), "{error}");
    assert!(error.contains(&format!("{}/data/tiny.tar.gz: 404", missing.url)) && error.contains(&dead), "{error}");
    assert_eq!(missing.requests().len(), 1, "a file that is not there is not asked for again");
    assert!(error.lines().count() == 1);
}

#[test]
fn the_next_place_is_tried_when_one_fails() {
    let root = tempfile::tempdir().unwrap();
    let replies = [Reply::Status(404), Reply::WrongBytes, Reply::Serve];
    let servers = replies.map(|reply| Server::start(archive(), vec![reply]));
    let urls: Vec<String> = servers.iter().map(|server| server.url.clone()).collect();
    run(&manifest(&archive(), &urls), root.path(), &options()).0.unwrap();
    assert_whole(&root);
}

#[test]
fn a_connection_that_never_gets_further_is_given_up_and_keeps_its_bytes() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(archive(), vec![Reply::CutAfter(9000), Reply::CutAfter(0)]);
    let error = fails(&manifest(&archive(), std::slice::from_ref(&server.url)), &root);
    assert!(error.contains("4 attempts; 9000 bytes are kept"), "{error}");
    assert_eq!(fs::metadata(root.path().join("tiny.tar.gz.part")).unwrap().len(), 9000);
}

#[test]
fn a_mirror_replaces_the_manifests_places_and_from_replaces_both() {
    let servers = [(); 3].map(|()| Server::start(archive(), vec![Reply::Serve]));
    let [official, mirror, given] = &servers;
    let manifest = manifest(&archive(), std::slice::from_ref(&official.url));
    for (from, expected) in [
        (None, "/m/tiny.tar.gz"),
        (Some(format!("{}/x", given.url)), "/x/tiny.tar.gz"),
        (Some(format!("{}/y/tiny.tar.gz", given.url)), "/y/tiny.tar.gz"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let asked = if from.is_some() { given } else { mirror };
        let options = FetchOptions { mirror: Some(format!("{}/m/", mirror.url)), from, ..options() };
        run(&manifest, root.path(), &options).0.unwrap();
        assert_whole(&root);
        assert_eq!(asked.requests().last().unwrap().0, expected);
    }
    assert_eq!((official.requests().len(), mirror.requests().len(), given.requests().len()), (0, 1, 2));
}

#[test]
fn archives_that_would_leave_the_folder_are_refused_whole() {
    use tar::EntryType::{Char, Link, Regular, Symlink};
    let contents = &contents()[..];
    let good = tar_with(b"tiny/a.bin", Regular, "", contents);
    let cases: [(&[u8], tar::EntryType, &str, &str); 9] = [
        (b"../evil", Regular, "", "leaves"),
        (b"tiny/../../evil", Regular, "", "leaves"),
        (b"/tmp/darts-evil", Regular, "", "leaves"),
        (b"tiny\\..\\..\\evil", Regular, "", "leaves"),
        (b"tiny/link", Symlink, "/etc/passwd", "Symlink"),
        (b"tiny/link", Link, "/etc/passwd", "Link"),
        (b"tiny/device", Char, "", "Char"),
        (b"tiny/a.bin", Regular, "", "twice"),
        (b"tiny/large", Regular, "", "more than 30000 bytes"),
    ];
    for (name, kind, link, reason) in cases {
        let size = if name.ends_with(b"large") { 10_001 } else { 0 };
        // The good file first, so that something has been written when the bad entry comes.
        let mut tar = good[..good.len() - 1024].to_vec();
        tar.extend(tar_with(name, kind, link, &contents[..size]));
        let (bytes, root) = (gzip(tar), tempfile::tempdir().unwrap());
        let server = Server::start(bytes.clone(), vec![Reply::Serve]);
        let error = fails(&manifest(&bytes, std::slice::from_ref(&server.url)), &root);
        assert!(error.contains(reason) && error.contains("nothing was unpacked"), "{name:?}: {error}");
        assert_eq!(names(&root), [".tiny.lock"], "{error}");
        assert!(!Path::new("/tmp/darts-evil").exists());
    }
}

#[test]
fn an_archive_that_inflates_without_end_is_refused() {
    let bytes = gzip(tar_with(b"tiny/a.bin", tar::EntryType::GNULongName, "", &vec![b'a'; 50 << 20]));
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(bytes.clone(), vec![Reply::Serve]);
    let error = fails(&manifest(&bytes, std::slice::from_ref(&server.url)), &root);
    assert!(error.contains("inflates to more"), "{error}");
}

#[test]
fn a_damaged_or_incomplete_archive_without_checksum_is_refused() {
    let (whole, root) = (archive(), tempfile::tempdir().unwrap());
    for bytes in [&whole[..whole.len() / 2], &gzip(tar_with(b"tiny/b", tar::EntryType::Regular, "", b"x"))] {
        let server = Server::start(bytes.to_vec(), vec![Reply::Serve]);
        let mut manifest = manifest(bytes, std::slice::from_ref(&server.url));
        manifest.archives[0].sha256 = None;
        let error = fails(&manifest, &root);
        assert!(error.contains("damaged") || error.contains("a.bin"), "{error}");
    }
}

#[test]
fn a_folder_can_be_the_source_packed_or_unpacked() {
    let (source, sets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(source.path().join("tiny.tar.gz"), archive()).unwrap();
    fs::create_dir(sets.path().join("tiny")).unwrap();
    fs::write(sets.path().join("tiny/a.bin"), contents()).unwrap();
    let manifest = manifest(&archive(), &[]);
    let file = source.path().join("tiny.tar.gz");
    for from in [source.path(), &file, sets.path(), &sets.path().join("tiny")] {
        let root = tempfile::tempdir().unwrap();
        let options = FetchOptions { from: Some(from.display().to_string()), ..options() };
        run(&manifest, root.path(), &options).0.unwrap();
        assert_whole(&root);
    }
    assert!(file.is_file() && sets.path().join("tiny/a.bin").is_file(), "sources are left alone");
    let empty = tempfile::tempdir().unwrap();
    let options = FetchOptions { from: Some(empty.path().display().to_string()), ..options() };
    let error = run(&manifest, empty.path(), &options).0.unwrap_err().to_string();
    assert!(error.contains("tiny.tar.gz: no such file"), "{error}");
    let error = fails(&manifest, &empty);
    assert!(error.contains("its manifest names no place"), "{error}");
}

#[test]
fn an_incomplete_dataset_is_set_aside_not_deleted() {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("tiny")).unwrap();
    fs::write(root.path().join("tiny/a.bin"), "half").unwrap();
    let server = Server::start(archive(), vec![Reply::Serve]);
    let (result, events) = run(&manifest(&archive(), std::slice::from_ref(&server.url)), root.path(), &options());
    result.unwrap();
    assert_eq!(events.last().unwrap(), "SetAside");
    assert_eq!(fs::read(root.path().join("tiny.incomplete-1/a.bin")).unwrap(), b"half");
    assert_eq!(fs::read(root.path().join("tiny/a.bin")).unwrap(), contents());
}

#[test]
fn two_fetches_of_one_dataset_do_not_run_at_once() {
    let root = tempfile::tempdir().unwrap();
    let lock = fs::File::create(root.path().join(".tiny.lock")).unwrap();
    lock.lock().unwrap();
    let error = fails(&manifest(&archive(), &[]), &root);
    assert!(error.starts_with("another process is fetching Tiny"), "{error}");
}

#[test]
fn files_that_are_not_packed_are_fetched_one_by_one() {
    let (root, server) = (tempfile::tempdir().unwrap(), Server::start(contents(), vec![Reply::Serve]));
    let mut manifest = manifest(&contents(), std::slice::from_ref(&server.url));
    let first = &mut manifest.archives[0];
    (first.file, first.format) = ("a.bin".to_owned(), Format::Plain);
    let second = Archive { file: "b.bin".to_owned(), ..first.clone() };
    manifest.archives.push(second);
    manifest.files.push(DataFile { path: "b.bin".into(), bytes: None });
    run(&manifest, root.path(), &options()).0.unwrap();
    assert_whole(&root);
    assert_eq!(fs::read(root.path().join("tiny/b.bin")).unwrap(), contents());
}

#[test]
fn a_dataset_without_a_known_place_is_taken_from_a_folder_alone() {
    let (root, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut manifest = manifest(&archive(), &[]);
    manifest.archives.clear();
    let error = fails(&manifest, &root);
    assert!(error.contains("names no place") && error.contains("get a.bin by other means"), "{error}");
    fs::write(source.path().join("a.bin"), contents()).unwrap();
    let options = FetchOptions { from: Some(source.path().display().to_string()), ..options() };
    run(&manifest, root.path(), &options).0.unwrap();
    assert_whole(&root);
}
