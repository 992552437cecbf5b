//! `bramble push` as a process over a real sshd: what it says, what it sends again, and what is left
//! when somebody is killed in the middle.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a test's helpers fail loudly too, and start the programs under test"
)]

#[path = "support/cpu.rs"]
mod cpu;
#[path = "support/desk.rs"]
mod desk;
#[path = "support/fleet.rs"]
mod fleet;
#[path = "support/sshd.rs"]
#[expect(dead_code, reason = "a part for other tests")]
mod sshd;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bramble_fleet::connect::{fast_cipher, has_aes, quote};
use bramble_fleet::gguf::{Array, NewHeader, NewTensor, Value as Meta};
use bramble_fleet::ids::Digest;
use bramble_fleet::quant::TensorType;
use fleet::{Fleet, Noise, write_noise};
use rustix::process::Signal;
use serde_json::Value;

/// Writes a GGUF of `mib` MiB of tensors and a vocabulary of 128,000 words with this chat template.
fn write_gguf(path: &Path, mib: u64, template: &str) {
    let tensor = |at| NewTensor {
        name: format!("blk.{at}.weight"),
        shape: vec![1024, 1024],
        tensor_type: TensorType::F32,
    };
    let tensors: Vec<NewTensor> = (0..mib / 4).map(tensor).collect();
    let words = (0..128_000).map(|at| format!("word number {at}")).collect();
    let metadata = [
        ("tokenizer.chat_template".to_owned(), Meta::Text(template.into())),
        ("tokenizer.ggml.tokens".to_owned(), Meta::Array(Array::Text(words))),
    ];
    let mut data = NewHeader::new(&metadata, &tensors).unwrap().bytes;
    data.extend(Noise(mib).bytes(usize::try_from(mib << 20).unwrap()));
    fs::write(path, data).unwrap();
}

#[test]
fn a_file_is_pushed_told_and_the_second_time_nothing_is_sent() {
    let Some(fleet) = Fleet::new() else { return };
    let digest = write_noise(&fleet.desk.path("weights"), 9, 1);
    let said = fleet.push("weights");
    assert_eq!(said["digest"], digest.to_string());
    let kitchen = &said["arrived"]["kitchen"];
    assert!(kitchen["bytes_sent"].as_u64().unwrap() > 9 << 20, "{said}");
    assert_eq!(kitchen["path"], fleet.blob(&digest).display().to_string());
    assert!(fs::read(fleet.blob(&digest)).unwrap() == fs::read(fleet.desk.path("weights")).unwrap());

    let output = fleet.command(&["push", "weights", "kitchen"]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(stdout.starts_with("+ kitchen: 0 B sent, 9.0 MiB were there, "), "{stdout}");
    let last = stdout.lines().last().unwrap();
    assert_eq!(
        last,
        format!("{} of 9.0 MiB on 1 host; 0 B left this machine, 9.0 MiB was there already.", digest.short())
    );

    let output = fleet.command(&["push", "nothing", "kitchen"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("nothing is no file"), "{stderr}");
    let output = fleet.command(&["push", "weights", "cellar"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && stderr.contains("knows a host cellar"), "{stderr}");
}

#[test]
fn programs_are_told_how_far_a_push_is_and_where_the_bytes_come_from() {
    let ports = [sshd::free_port(), sshd::free_port()];
    let Some(sshd) = sshd::Sshd::start_on(&ports) else { return };
    let fleet = Fleet::of(sshd, "", &[("kitchen", "host", ports[0]), ("shed", "other", ports[1])]);
    write_noise(&fleet.desk.path("weights"), 9, 2);
    assert!(fleet.command(&["push", "weights", "kitchen"]).output().unwrap().status.success());
    let output = fleet.command(&["push", "weights", "kitchen", "shed", "--json"]).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    let events: Vec<Value> = stderr.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    for host in ["kitchen", "shed"] {
        let is_its = |event: &&Value| event["key"].as_str().unwrap().starts_with(&format!("push/{host}/"));
        let its: Vec<&Value> = events.iter().filter(is_its).collect();
        let weights = its.iter().position(|event| event["what"] == "pushing weights").unwrap();
        let its: Vec<&Value> =
            its[weights..].iter().filter(|event| event["key"] == its[weights]["key"]).copied().collect();
        assert_eq!(
            (&its[0]["event"], &its[0]["host"], &its[0]["total"]),
            (&"started".into(), &host.into(), &(9 << 20).into())
        );
        let last = its.last().unwrap();
        assert_eq!(last["event"], "finished", "{stderr}");
        let progress: Vec<&&Value> = its.iter().filter(|event| event["event"] == "progress").collect();
        assert_eq!(progress.len() + 2, its.len(), "{stderr}");
        let far = |key: &str| progress.iter().map(|event| event[key].as_u64().unwrap()).collect::<Vec<_>>();
        assert!(far("done").is_sorted() && far("from_hosts").is_sorted(), "{stderr}");
        let last = (*far("done").last().unwrap(), *far("from_hosts").last().unwrap());
        let from_hosts = said["arrived"][host]["bytes_from_hosts"].as_u64().unwrap();
        assert!(last.1 <= from_hosts && last.0 <= 9 << 20, "{stderr}");
    }
    assert_eq!(said["arrived"]["shed"]["bytes_from_hosts"], 9 << 20, "{said}");
    let told = events.iter().filter_map(|event| event["from_hosts"].as_u64());
    assert!(told.max() > Some(0), "{stderr}");
}

#[test]
fn two_hosts_are_pushed_to_at_once_and_each_is_told_of() {
    let ports = [sshd::free_port(), sshd::free_port()];
    let Some(sshd) = sshd::Sshd::start_on(&ports) else { return };
    let fleet = Fleet::of(sshd, "", &[("kitchen", "host", ports[0]), ("shed", "other", ports[1])]);
    let digest = write_noise(&fleet.desk.path("weights"), 9, 2);
    let output = fleet.command(&["push", "weights", "kitchen", "shed"]).output().unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
    assert!(output.status.success() && said.contains("+ kitchen: ") && said.contains("+ shed: "), "{said}");
    assert!(said.contains(&format!("{} of 9.0 MiB on 2 hosts; ", digest.short())), "{said}");
    let weights = fs::read(fleet.desk.path("weights")).unwrap();
    for folder in ["host", "other"] {
        let blob = fleet.desk.path(folder).join("blobs/sha256").join(digest.to_string());
        assert!(fs::read(blob).unwrap() == weights, "{folder}");
    }
}

#[test]
fn another_template_costs_what_it_changes() {
    let Some(fleet) = Fleet::new() else { return };
    write_gguf(&fleet.desk.path("old.gguf"), 32, "{{ messages }}");
    write_gguf(&fleet.desk.path("new.gguf"), 32, "{% for message in messages %}{{ message }}{% endfor %}");
    fleet.push("old.gguf");
    let said = fleet.push("new.gguf");
    let sent = said["arrived"]["kitchen"]["bytes_sent"].as_u64().unwrap();
    assert!(sent <= 256 << 10, "{said}");
    let digest: Digest = said["digest"].as_str().unwrap().parse().unwrap();
    assert!(fs::read(fleet.blob(&digest)).unwrap() == fs::read(fleet.desk.path("new.gguf")).unwrap());
}

#[test]
fn where_little_may_leave_this_machine_weights_are_packed() {
    let Some(sshd) = sshd::Sshd::start() else { return };
    let hosts = [("kitchen", "host", sshd.port)];
    // slow enough for a debug build to pack in time
    let fleet = Fleet::of(sshd, "rollout: { bandwidth: { total: 3 MB/s } }", &hosts);
    // as weights are: values in the middle are more frequent
    let noise = Noise(3).bytes(160 << 20);
    let weights: Vec<u8> = noise.chunks(4).map(|dice| dice.iter().map(|die| die / 4).sum()).collect();
    fs::write(fleet.desk.path("weights"), &weights).unwrap();
    let begun = Instant::now();
    let said = fleet.push("weights");
    let kitchen = &said["arrived"]["kitchen"];
    let sent = kitchen["bytes_sent"].as_u64().unwrap() as f64 / weights.len() as f64;
    eprintln!("packed.sent_share = {sent:.3}, {:.1} s", begun.elapsed().as_secs_f64());
    assert!((0.5..0.985).contains(&sent), "{said}");
    assert_eq!(kitchen["bytes_reused"], 0);
    assert!(fs::read(fleet.blob(&Digest::of(&weights))).unwrap() == weights);
}

/// Whom to kill in the middle of a push.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Operator,
    Ssh,
    Receiver,
}

/// Kills somebody at a random moment of a push, `rounds` times: nothing but the whole file is ever
/// sealed, the next push completes, and what was written of whole chunks is not sent again.
fn kill(rounds: u64, mib: u64) {
    let Some(fleet) = Fleet::new() else { return };
    let digest = write_noise(&fleet.desk.path("weights"), mib, 7);
    let begun = Instant::now();
    fleet.push("weights");
    let whole = begun.elapsed();
    let mut random = Noise(rounds);
    let (mut interrupted, mut resent) = (0, 0);
    for round in 0..rounds {
        fs::remove_file(fleet.blob(&digest)).unwrap();
        let victim = [Victim::Operator, Victim::Ssh, Victim::Receiver][usize::try_from(round % 3).unwrap()];
        let mut operator = fleet.begin("weights");
        let micros = u64::try_from(whole.as_micros()).unwrap();
        std::thread::sleep(Duration::from_micros(random.within(0..micros)));
        fleet::kill(&match victim {
            Victim::Operator => vec![operator.id()],
            Victim::Ssh => fleet.ssh(),
            Victim::Receiver => fleet.receivers(),
        });
        let is_done = operator.wait().unwrap().success();
        fleet.wait_for_receivers();
        let sealed = fs::read(fleet.blob(&digest)).ok();
        let is_sealed = sealed.is_some();
        assert!(is_sealed || !is_done, "round {round}, {victim:?}: a push that failed says that it did not");
        assert!(
            sealed.is_none_or(|data| Digest::of(&data) == digest),
            "round {round}, {victim:?}: not whole"
        );
        let written = if is_sealed { mib << 20 } else { fleet.written(&digest) };
        let said = fleet.push("weights");
        let sent = said["arrived"]["kitchen"]["bytes_sent"].as_u64().unwrap();
        assert!(Digest::of(&fs::read(fleet.blob(&digest)).unwrap()) == digest, "round {round}");
        assert_eq!(fs::read_dir(fleet.desk.path("host/partial")).unwrap().count(), 0, "round {round}");
        interrupted += u64::from(!is_sealed);
        resent += (sent + written).saturating_sub(mib << 20);
    }
    // a chunk was whole and not claimed yet when its receiver was killed
    assert!(resent <= interrupted * (4 << 20), "{resent} bytes were sent again in {interrupted} rounds");
    eprintln!("faults.kills = {rounds}");
    eprintln!("faults.kills_in_the_middle = {interrupted}");
    eprintln!("faults.kills_resent_mib = {:.1}", resent as f64 / f64::from(1 << 20));
}

#[test]
fn whoever_is_killed_the_file_is_whole_or_absent_and_the_next_push_completes() {
    kill(6, 16);
}

#[test]
fn whoever_interrupts_a_push_is_told_where_it_stands() {
    let Some(fleet) = Fleet::new() else { return };
    let digest = write_noise(&fleet.desk.path("weights"), 32, 9);
    let slept = fleet.desk.path("slept");
    fleet.hook(&format!(
        "[ \"$1\" != receive ] || {{ touch {}; exec sleep 20; }}",
        quote(&slept.display().to_string())
    ));
    let mut pushing = fleet.pushing("weights");
    let operator = pushing.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    while !slept.exists() {
        assert!(begun.elapsed() < Duration::from_mins(1), "the host was never asked to receive");
        std::thread::sleep(Duration::from_millis(20));
    }
    fleet::signal(&[operator.id()], Signal::INT);
    let output = operator.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("Interrupted: what was sent is kept on the hosts"), "{said}");
    fleet.unhook();
    fleet.push("weights");
    assert!(Digest::of(&fs::read(fleet.blob(&digest)).unwrap()) == digest);
}

#[test]
#[ignore = "a minute: a measurement"]
fn twenty_kills() {
    kill(20, 32);
}

#[test]
#[ignore = "minutes: a measurement"]
fn two_hundred_kills() {
    kill(200, 32);
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Returns a copying program of OpenSSH, set up for the fleet's sshd.
fn theirs(fleet: &Fleet, program: &str) -> Command {
    let mut command = Command::new(program);
    let known = format!("UserKnownHostsFile={}", fleet.sshd.path("known").display());
    command.args(["-q", "-F", "none", "-o", "BatchMode=yes", "-o", &known]);
    command.arg("-i").arg(fleet.sshd.path("login")).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Prints what a GiB costs both ends in processor seconds, beside scp of the same run, each a median of three:
/// scp as it is, and with the cipher that we take.
#[test]
#[ignore = "a measurement, for a release build"]
fn cpu_seconds() {
    const MIB: u64 = 512;
    let Some(fleet) = Fleet::new() else { return };
    let digest = write_noise(&fleet.desk.path("weights"), MIB, 5);
    // the program is there before anything is measured
    write_noise(&fleet.desk.path("small"), 1, 3);
    fleet.push("small");
    let ends = cpu::Ends::new(fleet.sshd.pid());
    let copy = fleet.desk.path("copy");
    let to = format!("{}@127.0.0.1:{}", fleet.sshd.target().user.unwrap(), copy.display());
    let cipher = format!("-oCiphers=^{}", fast_cipher(has_aes()));
    let mut costs: [Vec<[f64; 2]>; 4] = Default::default();
    for _ in 0..3 {
        for (at, more) in [None, Some(&cipher)].into_iter().enumerate() {
            let mut scp = theirs(&fleet, "scp");
            scp.args(more).args(["-P", &fleet.sshd.port.to_string()]);
            scp.arg(fleet.desk.path("weights")).arg(&to);
            costs[at].push(ends.cost(|| assert!(scp.status().unwrap().success())));
            fs::remove_file(&copy).unwrap();
        }
        // with the list of chunks made anew, and with the one that is kept
        fs::remove_dir_all(fleet.desk.path("cache/bramble/chunks")).unwrap();
        for cost in &mut costs[2..] {
            cost.push(ends.cost(|| drop(fleet.push("weights"))));
            fs::remove_file(fleet.blob(&digest)).unwrap();
        }
    }
    for (end, name) in ["operator", "host"].into_iter().enumerate() {
        let [scp, same_cipher, first, again] = costs.each_ref().map(|costs| {
            let ends: Vec<f64> = costs.iter().map(|cost| cost[end]).collect();
            median(&ends) * 1024.0 / MIB as f64
        });
        eprintln!("cpu_seconds_per_gib.{name} = {first:.2}");
        eprintln!("cpu_seconds_per_gib.{name}.with_its_list_kept = {again:.2}");
        eprintln!("cpu_seconds_per_gib.{name}.scp = {scp:.2}");
        eprintln!("cpu_seconds_per_gib.{name}.scp_of_that_cipher = {same_cipher:.2}");
    }
}

/// Prints `NAME = VALUE`, each a median of five, in turn, of one host on the loopback interface and a disk.
/// Theirs ends when the far end has synced, as ours does.
#[test]
#[ignore = "a measurement, for a release build on a quiet machine"]
fn figures() {
    const MIB: u64 = 512;
    let Some(fleet) = Fleet::new() else { return };
    let weights = fleet.desk.path("weights.gguf");
    write_gguf(&weights, MIB, "{{ messages }}");
    let small = write_noise(&fleet.desk.path("small"), 1, 3);
    // the program is there before anything is timed
    fleet.push("small");
    fs::remove_file(fleet.blob(&small)).unwrap();
    let size = fs::metadata(&weights).unwrap().len();
    let copy = fleet.desk.path("copy");
    let user = fleet.sshd.target().user.unwrap();
    let known = format!("UserKnownHostsFile={}", fleet.sshd.path("known").display());
    let (port, identity) = (fleet.sshd.port.to_string(), fleet.sshd.path("login").display().to_string());
    let timed = |command: &mut Command| {
        let begun = Instant::now();
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
        begun.elapsed().as_secs_f64()
    };
    let mut rounds: [Vec<f64>; 4] = Default::default();
    let (mut shares, mut resent, mut reread) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..5 {
        let to = format!("{user}@127.0.0.1:{}", copy.display());
        let mut scp = Command::new("scp");
        scp.args(["-q", "-F", "/dev/null", "-P", &port, "-i", &identity, "-o", &known])
            .arg(&weights)
            .arg(&to);
        let sync = || timed(Command::new("sync").arg("-f").arg(&copy));
        rounds[0].push(timed(&mut scp) + sync());
        fs::remove_file(&copy).unwrap();
        let shell = format!("ssh -F /dev/null -p {port} -i {identity} -o {known}");
        let mut rsync = Command::new("rsync");
        rsync.args(["-W", "-e", &shell]).arg(&weights).arg(&to);
        rounds[1].push(timed(&mut rsync) + sync());
        fs::remove_file(&copy).unwrap();

        // with the list of chunks made anew, and with the one that is kept after the first push
        fs::remove_dir_all(fleet.desk.path("cache/bramble/chunks")).unwrap();
        rounds[2].push(timed(&mut fleet.command(&["push", "weights.gguf", "kitchen"])));
        let digest = Digest::of(&fs::read(&weights).unwrap());
        fs::remove_file(fleet.blob(&digest)).unwrap();
        rounds[3].push(timed(&mut fleet.command(&["push", "weights.gguf", "kitchen"])));

        // another template
        write_gguf(
            &fleet.desk.path("new.gguf"),
            MIB,
            "{% for message in messages %}{{ message }}{% endfor %}",
        );
        let said = fleet.push("new.gguf");
        shares.push(said["arrived"]["kitchen"]["bytes_sent"].as_u64().unwrap() as f64 / size as f64);
        fs::remove_dir_all(fleet.desk.path("host/blobs")).unwrap();
        fs::remove_dir_all(fleet.desk.path("host/chunks")).unwrap();

        // cut off in the middle
        let mut operator = fleet.begin("weights.gguf");
        while fleet.written(&digest) < size / 2 {
            std::thread::sleep(Duration::from_millis(1));
        }
        // the operator alone would not do: its ssh has the file by itself, and goes on to its end
        fleet::kill(&fleet.ssh());
        operator.wait().unwrap();
        fleet.wait_for_receivers();
        let written = fleet.written(&digest);
        assert!(written > 0, "it was not cut off");
        let said = fleet.push("weights.gguf");
        let sent = said["arrived"]["kitchen"]["bytes_sent"].as_u64().unwrap();
        resent.push((sent + written).saturating_sub(size) as f64 / f64::from(1 << 20));
        reread.push(fleet.read().saturating_sub(sent) as f64 / f64::from(1 << 20));
        fs::remove_file(fleet.blob(&digest)).unwrap();
    }
    let [scp, rsync, first, again] = rounds.map(|seconds| median(&seconds));
    eprintln!("one.seconds = {first:.2}");
    eprintln!("one.vs_scp = {:.2}", scp / first);
    eprintln!("one.vs_rsync = {:.2}", rsync / first);
    eprintln!("one.with_its_list_kept.vs_scp = {:.2}", scp / again);
    eprintln!("template_change.sent_share = {:.5}", median(&shares));
    eprintln!("resume.resent_mib = {:.1}", median(&resent));
    eprintln!("resume.reread_mib = {:.1}", median(&reread));
}
