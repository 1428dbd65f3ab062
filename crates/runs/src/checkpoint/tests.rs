//! Checkpoints against damage, full disks and mutated bytes.

use super::*;

fn sample(total: u64) -> Checkpoint {
    Checkpoint {
        position: Position {
            epoch: 3,
            step: 17,
            total,
            epoch_seconds: 0.25,
            waited_seconds: 0.125,
            seconds: 1.5,
            peak_memory_bytes: 1 << 31,
            peak_device_bytes: Some(1 << 33),
            loss_sum: 2.0f64.sqrt(),
            correct: 7,
            examples: 11,
            learning_rate: 0.025,
        },
        journals: [("metrics.jsonl".to_string(), 123), ("alphas.jsonl".to_string(), 45)].into(),
        state: State {
            counters: [("adam_steps".to_string(), 9)].into(),
            vectors: vec![
                ("w".into(), (0..300).map(|i| (i as f32).sin()).collect()),
                ("alpha".into(), vec![f32::MIN_POSITIVE / 2.0, -0.0, 1e-3]),
                ("empty".into(), vec![]),
            ],
        },
    }
}

fn bytes(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut out = Vec::new();
    encode(checkpoint, &mut out).unwrap();
    out
}

/// A small reproducible generator, so that a failing mutation can be found again.
struct Lcg(u64);
impl Lcg {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

#[test]
fn reading_gives_back_every_bit() {
    let dir = tempfile::tempdir().unwrap();
    let path = write(dir.path(), &sample(40)).unwrap();
    let back = read(&path).unwrap();
    assert_eq!(back, sample(40));
    let bits =
        |c: &Checkpoint| c.state.vectors.iter().flat_map(|(_, v)| v.iter().map(|x| x.to_bits())).collect::<Vec<_>>();
    assert_eq!(bits(&back), bits(&sample(40)));
}

#[test]
fn the_last_two_are_kept_and_a_damaged_one_is_named_and_skipped() {
    let dir = tempfile::tempdir().unwrap();
    for total in [10, 20, 30] {
        write(dir.path(), &sample(total)).unwrap();
    }
    let files = list(dir.path()).unwrap();
    assert_eq!(files.len(), 2);
    let mut damaged = fs::read(&files[1]).unwrap();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    fs::write(&files[1], damaged).unwrap();
    let mut warnings = Vec::new();
    let (used, path) = latest(dir.path(), |w| warnings.push(w.to_string())).unwrap().unwrap();
    assert_eq!((used.position.total, path), (20, files[0].clone()));
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].contains(&files[1].display().to_string()), "{}", warnings[0]);

    fs::write(&files[0], b"").unwrap();
    let error = latest(dir.path(), |_| ()).unwrap_err().to_string();
    assert!(error.contains("no checkpoint") && !error.contains('\n'), "{error}");
}

#[test]
fn an_absent_or_empty_folder_has_no_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    assert!(latest(&dir.path().join("checkpoint"), |_| ()).unwrap().is_none());
    assert!(latest(dir.path(), |_| ()).unwrap().is_none());
}

#[test]
fn twenty_thousand_mutated_files_never_panic_and_never_pass_for_whole() {
    let good = bytes(&sample(40));
    let body = good.len() - DIGEST;
    let mut random = Lcg(1);
    for round in 0..20_000 {
        let mut bad = good[..body].to_vec();
        match round % 5 {
            0 => {
                let at = random.below(body);
                bad[at] ^= 1 << random.below(8);
            }
            1 => bad.truncate(random.below(body)),
            2 => {
                let (at, n) = (random.below(body), random.below(64));
                bad.splice(at..at, std::iter::repeat_n(random.below(256) as u8, n + 1));
            }
            3 => {
                // The header's length, the field that decides how much is read.
                let at = MAGIC.len() + random.below(8);
                bad[at] = random.below(256) as u8;
            }
            _ => {
                // Digits of the header's JSON: lengths of vectors among them.
                let digits: Vec<usize> = (16..body.min(600)).filter(|i| bad[*i].is_ascii_digit()).collect();
                for _ in 0..3 {
                    bad[digits[random.below(digits.len())]] = b'0' + random.below(10) as u8;
                }
            }
        }
        // With the old checksum: refused, unless nothing changed.
        let mut file = bad.clone();
        file.extend_from_slice(&good[body..]);
        if file != good {
            assert!(check_digest(&file).is_err(), "round {round} passed the checksum");
        }
        // As if the checksum were right: whatever comes back holds no more than the file does.
        if let Ok(checkpoint) = decode(&bad) {
            let floats: usize = checkpoint.state.vectors.iter().map(|(_, v)| v.len()).sum();
            assert!(4 * floats <= bad.len(), "round {round}");
        }
    }
}

#[test]
fn a_vector_of_another_length_is_refused_by_name() {
    let mut state = sample(1).state;
    assert!(state.take("w", 299).unwrap_err().contains("w has 300"));
    assert!(state.take("momentum", 300).unwrap_err().contains("momentum"));
    assert_eq!(state.take("alpha", 3).unwrap()[2], 1e-3);
}
