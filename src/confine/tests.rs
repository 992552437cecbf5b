use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Signal, getppid, kill_process, test_kill_process};

use super::*;

fn denied<T>(what: &str, tried: io::Result<T>) {
    assert_eq!(tried.err().map(|error| error.kind()), Some(ErrorKind::PermissionDenied), "{what}");
}

/// A thread stands for the process: what is given up is each thread's own, but for the limit on core dumps.
#[test]
#[expect(clippy::disallowed_methods, reason = "it tries to start a program, in vain")]
fn who_listens_reads_what_it_names_and_speaks_to_nobody_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for folder in ["run", "run/prompts", "current"] {
        fs::create_dir(path(folder)).unwrap();
    }
    for file in ["weights", "current/definition.json", "current/secrets.json", "run/supervise.json"] {
        fs::write(path(file), file).unwrap();
    }
    let needs = Needs {
        reads: vec![path("weights"), path("current/definition.json"), path("is not there")],
        keeps: vec![path("run/prompts")],
        devices: vec!["/dev/null".into()],
        listens: Some(path("run")),
        owns_all: true,
    };
    let _agent = UnixListener::bind(path("run/agent")).unwrap();
    let mail = UnixDatagram::bind(path("run/notify")).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let parent = getppid().unwrap();
    let confined = || {
        if !confine(&needs).unwrap() {
            // nothing can be shown on a kernel without it, as in some containers
            return false;
        }
        for file in ["weights", "current/definition.json"] {
            fs::read(path(file)).unwrap();
        }
        fs::OpenOptions::new().write(true).open("/dev/null").unwrap().write_all(b"x").unwrap();
        fs::write(path("run/prompts/list.new"), b"x").unwrap();
        fs::rename(path("run/prompts/list.new"), path("run/prompts/list")).unwrap();
        assert_eq!(fs::read(path("run/prompts/list")).unwrap(), b"x");
        // its folder is emptied, and stays
        denied("its folder", fs::remove_dir_all(path("run/prompts")));
        assert_eq!(fs::read_dir(path("run/prompts")).unwrap().count(), 0);

        denied("secrets", fs::read(path("current/secrets.json")));
        denied("names", fs::read_dir(path("current")));
        denied("others' state", fs::write(path("run/supervise.json"), b"x"));
        denied("a new file", fs::write(path("run/turns.json"), b"x"));
        denied("accounts", fs::read("/etc/passwd"));
        denied(
            "another process",
            fs::read(format!("/proc/{parent}/environ", parent = parent.as_raw_nonzero())),
        );
        // what would run in the place of this test fails
        denied::<()>("a program", Err(Command::new("/bin/false").exec()));
        let child = Command::new("/bin/true").status();
        assert_eq!(
            child.err().map(|error| error.kind()),
            Some(ErrorKind::WouldBlock),
            "a process of its own"
        );
        denied("the network", TcpStream::connect(address));
        denied("a port", TcpListener::bind("127.0.0.1:0"));
        denied("a name", UdpSocket::bind("127.0.0.1:0"));
        denied("an agent", UnixStream::connect(path("run/agent")));
        denied("a signal", kill_process(parent, Signal::URG).map_err(io::Error::from));
        denied("a look", test_kill_process(parent).map_err(io::Error::from));
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        for line in
            ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapPrm:\t0000000000000000"]
        {
            assert!(status.contains(&format!("\n{line}\n")), "{line}: {status}");
        }

        // who supervises it is told how it is, and who asks it is answered
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", path("run/notify")).unwrap();
        let socket = UnixListener::bind(path("run/engine.sock")).unwrap();
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", path("run/notify")).unwrap();
        let mut question = [0; 3];
        socket.accept().unwrap().0.read_exact(&mut question).unwrap();
        assert_eq!(&question, b"Hi?");
        fs::remove_file(path("run/engine.sock")).unwrap();
        true
    };
    let is_kept = std::thread::scope(|scope| {
        let confined = scope.spawn(confined);
        let mut word = [0; 16];
        mail.set_read_timeout(Some(std::time::Duration::from_mins(1))).unwrap();
        // where nothing is kept, it has ended
        let is_told = |word: &mut [u8]| !confined.is_finished() && mail.recv(word).is_ok();
        if is_told(&mut word) && is_told(&mut word) {
            UnixStream::connect(path("run/engine.sock")).unwrap().write_all(b"Hi?").unwrap();
        }
        confined.join().unwrap()
    });
    assert_eq!(getrlimit(Resource::Core).maximum, Some(0));
    assert!(path("run/supervise.json").exists());
    eprintln!("kept by the kernel: {is_kept}");
}
