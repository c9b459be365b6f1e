//! The command in a real terminal.

use cli_tests::{Shell, Tty, cases, until};
use rustix::process::{Pid, Signal, kill_process};

cases! {
    shell_in_container [Attach, Terminal];
    output_before_attach_is_shown_once [Attach, Terminal];
    window_size_is_forwarded [Attach, Terminal];
    ctrl_c_is_sent_to_process [Attach, Terminal];
    exec_in_terminal [Exec, ExecTerminal];
    terminal_is_restored [Attach, Exec, ExecTerminal, Terminal];
    terminal_is_restored_after_signal [Exec, ExecTerminal];
    terminal_is_restored_after_container_removal [Exec, ExecTerminal];
    closed_window_ends_container [Attach, Terminal];
    closed_window_ends_exec [ExecSignal, ExecTerminal];
    attach_and_detach [Attach, Terminal];
    stats_table_is_refreshed [StatsCpu];
    top_sorts_by_cpu [StatsCpu];
    top_lists_processes_in_terminal [Exec];
    pull_shows_progress [PullImage];
    colours_depend_on_terminal_and_environment [];
}

/// Starts a shell in a new container and waits for its prompt.
fn shell_in(shell: &Shell<'_>, more: &[&str]) -> Tty {
    let arguments = [&["run", "--rm", "-it", "-e", "PS1=prompt> "], more, &[&shell.image, "sh"]];
    let mut tty = Tty::run(shell, 31, 97, &arguments.concat());
    tty.expect("prompt> ");
    tty
}

fn shell_in_container(shell: &Shell<'_>) {
    let mut tty = shell_in(shell, &["--name", "shell"]);
    tty.press("echo one$((1 + 1))\r");
    tty.expect("one2\r\n");
    tty.press("hostname; tty\r");
    tty.expect("/dev/");
    tty.press("exit 7\r");
    assert_eq!(tty.end(), 7);
    assert!(shell.names().is_empty(), "--rm leaves nothing");
}

fn output_before_attach_is_shown_once(shell: &Shell<'_>) {
    let lines: String = (1..=300).map(|number| format!("line {number}\r\n")).collect();
    // All lines at once, and slowly during the attach, which starts at any moment.
    let at_once = "for i in $(seq 300); do echo line $i; done; exec sh";
    let slowly = "for i in $(seq 300); do echo line $i; sleep 0.001; done; exec sh";
    for script in [at_once, slowly] {
        let arguments = ["run", "--rm", "-it", "-e", "PS1=prompt> ", &shell.image];
        let mut tty = Tty::run(shell, 31, 97, &[&arguments[..], &["sh", "-c", script]].concat());
        let shown = tty.expect("prompt> ");
        assert!(shown.starts_with(&lines), "{shown}");
        assert_eq!(shown.matches("line").count(), 300, "{shown}");
        tty.press("exit 3\r");
        assert_eq!(tty.end(), 3);
    }
    // A container that exits before an attach.
    let mut tty = Tty::run(shell, 31, 97, &["run", "--rm", "-it", &shell.image, "echo", "short"]);
    tty.expect("short\r\n");
    assert_eq!(tty.end(), 0);
}

fn window_size_is_forwarded(shell: &Shell<'_>) {
    let mut tty = shell_in(shell, &[]);
    tty.press("until [ \"$(stty size)\" = '31 97' ]; do sleep 0.05; done; echo fi''rst\r");
    tty.expect("first\r\n");
    tty.resize(44, 133);
    tty.press("until [ \"$(stty size)\" = '44 133' ]; do sleep 0.05; done; echo sec''ond\r");
    tty.expect("second\r\n");
    tty.press("exit\r");
    assert_eq!(tty.end(), 0);
}

fn ctrl_c_is_sent_to_process(shell: &Shell<'_>) {
    let mut tty = shell_in(shell, &[]);
    // The key may arrive before the first sleep.
    tty.press(
        "trap 'echo cau''ght; stop=1' INT; echo rea''dy; until [ $stop ]; do sleep 0.1; done\r",
    );
    tty.expect("ready\r\n");
    tty.press("\x03");
    tty.expect("caught\r\n");
    tty.expect("prompt> ");
    // Ctrl-D ends the shell.
    tty.press("\x04");
    tty.end();
    assert!(shell.names().is_empty());
}

fn exec_in_terminal(shell: &Shell<'_>) {
    shell.idle("terminal");
    let arguments = ["exec", "-it", "terminal", "env", "PS1=in> ", "sh"];
    let mut tty = Tty::run(shell, 24, 80, &arguments);
    tty.expect("in> ");
    tty.press("tty; echo $((6 * 7))\r");
    tty.expect("/dev/");
    tty.expect("\r\n42\r\n");
    tty.resize(50, 140);
    tty.press("until [ \"$(stty size)\" = '50 140' ]; do sleep 0.05; done; echo resi''zed\r");
    tty.expect("resized\r\n");
    tty.press("exit 9\r");
    assert_eq!(tty.end(), 9);
    assert_eq!(shell.names(), ["terminal"], "the container keeps running");
}

/// Runs the command in a script that prints the terminal's settings afterwards.
fn run_and_print_settings(shell: &Shell<'_>, command: &str) -> Tty {
    let script = format!("sh -c 'echo pid=$$=; exec {command}'; echo code=$?=; stty -a; echo end");
    Tty::script(shell, 24, 80, &script)
}

fn number_after(tty: &mut Tty, word: &str) -> i32 {
    tty.expect(word);
    let text = tty.expect("=");
    text.trim_end_matches('=').parse().expect("a number")
}

fn expect_restored_settings(tty: &mut Tty) {
    let settings = tty.expect("\r\nend");
    let words: Vec<_> = settings.split_whitespace().collect();
    for wanted in ["icanon", "echo", "isig", "opost"] {
        assert!(words.contains(&wanted), "{wanted} in {settings}");
    }
}

fn terminal_is_restored(shell: &Shell<'_>) {
    shell.idle("back");
    for (command, code) in [
        ("\"$RUNTIME\" exec -it back sh -c \"exit 4\"", 4),
        ("\"$RUNTIME\" exec -it back no-such-command", 127),
        ("\"$RUNTIME\" exec -it no-such-box sh", 125),
        (&format!("\"$RUNTIME\" run --rm -it {} sh -c \"exit 5\"", shell.image), 5),
        (&format!("\"$RUNTIME\" run --rm -it {} no-such-command", shell.image), 127),
    ] {
        let mut tty = run_and_print_settings(shell, command);
        assert_eq!(number_after(&mut tty, "code="), code, "{command}");
        expect_restored_settings(&mut tty);
        assert_eq!(tty.end(), 0);
    }
}

fn terminal_is_restored_after_signal(shell: &Shell<'_>) {
    shell.idle("back-after-signal");
    let command =
        "\"$RUNTIME\" exec -it back-after-signal sh -c \"stty -echo; echo ready; sleep 3600\"";
    let mut tty = run_and_print_settings(shell, command);
    let pid = number_after(&mut tty, "pid=");
    tty.expect("ready");
    kill_process(Pid::from_raw(pid).expect("a pid"), Signal::TERM).expect("the signal is sent");
    assert_eq!(number_after(&mut tty, "code="), 143);
    expect_restored_settings(&mut tty);
    tty.end();
}

fn terminal_is_restored_after_container_removal(shell: &Shell<'_>) {
    shell.idle("back-after-removal");
    let mut tty = run_and_print_settings(
        shell,
        "\"$RUNTIME\" exec -it back-after-removal sh -c \"echo ready; sleep 3600\"",
    );
    tty.expect("ready");
    let _ = shell.run(&["rm", "-f", "back-after-removal"]).ok();
    let code = number_after(&mut tty, "code=");
    assert!([125, 137].contains(&code), "{code}");
    expect_restored_settings(&mut tty);
    tty.end();
}

fn closed_window_ends_container(shell: &Shell<'_>) {
    let mut tty = shell_in(shell, &["--name", "window"]);
    assert_eq!(shell.names(), ["window"]);
    tty.close();
    tty.end();
    until("the end of the container", || shell.names().is_empty());
}

fn closed_window_ends_exec(shell: &Shell<'_>) {
    shell.idle("exec-window");
    let script = "echo ready; trap '' HUP; sleep 4321";
    let mut tty = Tty::run(shell, 24, 80, &["exec", "-it", "exec-window", "sh", "-c", script]);
    tty.expect("ready");
    tty.close();
    tty.end();
    until("the end of the process", || {
        let processes = shell.run(&["exec", "exec-window", "ps", "-o", "args"]).ok();
        !processes.contains("trap '' HUP")
    });
}

fn attach_and_detach(shell: &Shell<'_>) {
    let script = "while read -r line; do echo got $line; [ $line = bye ] && exit 3; done";
    let made =
        shell.run(&["create", "-it", "--name", "attached", &shell.image, "sh", "-c", script]);
    let _ = made.ok();
    let mut tty = Tty::run(shell, 24, 80, &["start", "-ai", "attached"]);
    tty.press("one\r");
    tty.expect("got one");
    // A concurrent second attach.
    let mut other = Tty::run(shell, 24, 80, &["attach", "attached"]);
    other.press("two\r");
    other.expect("got two");
    tty.expect("got two");
    other.press("bye\r");
    assert_eq!((tty.end(), other.end()), (3, 3));
}

fn stats_table_is_refreshed(shell: &Shell<'_>) {
    shell.idle("live-one");
    let mut tty = Tty::run(shell, 24, 100, &["stats"]);
    for _ in 0..2 {
        tty.expect("CPU %");
        tty.expect("live-one");
    }
    tty.press("\x03");
    assert_eq!(tty.end(), 130);
}

fn top_sorts_by_cpu(shell: &Shell<'_>) {
    shell.idle("an-idle-one");
    let busy = ["run", "-d", "--name", "the-busy-one", &shell.image, "sh", "-c"];
    let _ = shell.run(&[&busy[..], &["while :; do :; done"]].concat()).ok();
    let mut tty = Tty::run(shell, 24, 100, &["top"]);
    // The engine may have no stats of both at first.
    let is_first = (0..30).any(|_| {
        tty.expect("CPU %");
        tty.expect("an-idle-one").contains("the-busy-one")
    });
    assert!(is_first, "the busy one stands below the idle one");
    tty.press("\x03");
    assert_eq!(tty.end(), 130);
    let mut tty = Tty::run(shell, 24, 100, &["top", "--no-stream"]);
    tty.expect("the-busy-one");
    assert_eq!(tty.end(), 0);
}

fn top_lists_processes_in_terminal(shell: &Shell<'_>) {
    let _ = shell.run(&["run", "-d", "--name", "processes", &shell.image, "sleep", "4321"]).ok();
    let mut tty = Tty::run(shell, 24, 100, &["top", "processes", "-o", "pid,args"]);
    tty.expect("PID");
    tty.expect("sleep 4321");
    assert_eq!(tty.end(), 0);
}

fn pull_shows_progress(shell: &Shell<'_>) {
    let site = test_engines::Site::of_checkout().expect("a checkout");
    let tag = std::process::id().to_string();
    let image = test_engines::push_unique_image(&site, "test/cli-pull", &tag).expect("an image");
    let mut tty = Tty::run(shell, 24, 120, &["pull", &image]);
    if shell.engine.capabilities().pull_progress {
        // The progress bar of a layer with its size.
        tty.expect("[==");
        tty.expect(" of ");
    } else {
        tty.expect(&format!("pulling {image}"));
    }
    tty.expect("@sha256:");
    assert_eq!(tty.end(), 0);
    let mut quiet = Tty::run(shell, 24, 120, &["pull", "-q", &image]);
    let shown = quiet.expect("@sha256:");
    assert!(!shown.contains('\x1b'), "{shown:?}");
    assert_eq!(quiet.end(), 0);
}

fn colours_depend_on_terminal_and_environment(shell: &Shell<'_>) {
    for (setting, coloured) in [("A=b", true), ("NO_COLOR=1", false), ("TERM=dumb", false)] {
        let script = format!("{setting} \"$RUNTIME\" ps; {setting} \"$RUNTIME\" rm none; echo end");
        let mut tty = Tty::script(shell, 24, 120, &script);
        let shown = tty.expect("\r\nend");
        assert_eq!(shown.contains("\x1b[1m"), coloured, "the head: {shown:?}");
        assert_eq!(shown.contains("\x1b[1;31m"), coloured, "the error: {shown:?}");
        assert!(shown.contains("NAME") && shown.contains("not found"), "{shown:?}");
        assert_eq!(tty.end(), 0);
    }
    // A pipe has no colours.
    let none = shell.run(&["rm", "none"]);
    assert!(none.code == Some(1) && !none.stderr.contains('\x1b'), "{none:?}");
}
