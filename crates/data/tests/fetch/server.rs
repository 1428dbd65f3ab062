//! A web server on the loopback interface that misbehaves as it is told. It knows GET and byte ranges, nothing else.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What is done with a request.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The file, or the asked range of it.
    Serve,
    /// The whole file, whatever range was asked for.
    IgnoreRange,
    /// The beginning of what was asked for, then the connection is closed.
    CutAfter(usize),
    /// The beginning of what was asked for, then nothing for this long.
    SilentAfter(usize, Duration),
    /// What was asked for in pieces of some bytes, with a pause after each.
    Slow(usize, Duration),
    /// A status without a file.
    Status(u16),
    /// Another file of the same length.
    WrongBytes,
    /// The file without saying how long it is, and without knowing ranges.
    Unannounced,
}

/// A request that came: its path, and where its range starts.
pub(crate) type Request = (String, Option<u64>);

pub(crate) struct Server {
    pub(crate) url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves `file` under every name; request i gets reply i, those after the last one the last one.
    pub(crate) fn start(file: Vec<u8>, replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let seen = requests.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = read_request(&stream) else { continue };
                let number = {
                    let mut seen = seen.lock().unwrap();
                    seen.push(request.clone());
                    seen.len() - 1
                };
                let reply = replies[number.min(replies.len() - 1)].clone();
                // A client that has seen enough closes the connection: that is no failure of the server.
                let _ = answer(stream, &file, request.1, &reply);
            }
        });
        Self { url, requests }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// Where the range of each request started.
    pub(crate) fn ranges(&self) -> Vec<Option<u64>> {
        self.requests().into_iter().map(|(_, range)| range).collect()
    }
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut range = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
            range = value.trim_end_matches('-').parse().ok();
        }
    }
    Some((path, range))
}

fn answer(mut stream: TcpStream, file: &[u8], range: Option<u64>, reply: &Reply) -> std::io::Result<()> {
    let start = match reply {
        Reply::IgnoreRange | Reply::Unannounced => 0,
        Reply::Status(status) => {
            return write!(stream, "HTTP/1.1 {status} Told So\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        _ => range.unwrap_or(0) as usize,
    };
    let mut body = file[start.min(file.len())..].to_vec();
    if matches!(reply, Reply::WrongBytes) {
        body.iter_mut().for_each(|byte| *byte ^= 1);
    }
    match (start, reply) {
        (_, Reply::Unannounced) => write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")?,
        (0, _) => {
            write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        }
        _ => {
            let (end, total) = (file.len() - 1, file.len());
            write!(stream, "HTTP/1.1 206 Partial\r\nContent-Range: bytes {start}-{end}/{total}\r\n")?;
            write!(stream, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
        }
    }
    match *reply {
        Reply::CutAfter(bytes) => stream.write_all(&body[..bytes.min(body.len())]),
        Reply::SilentAfter(bytes, pause) => {
            stream.write_all(&body[..bytes.min(body.len())])?;
            stream.flush()?;
            std::thread::sleep(pause);
            Ok(())
        }
        Reply::Slow(bytes, pause) => body.chunks(bytes).try_for_each(|piece| {
            std::thread::sleep(pause);
            stream.write_all(piece)?;
            stream.flush()
        }),
        _ => stream.write_all(&body),
    }
}
