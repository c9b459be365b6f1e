//! Each field of a spec takes effect inside the container.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use runtime_core::{
    Capability, ContainerSpec, ErrorKind, Interactive, Mount, MountKind, StopOptions,
};

use super::resources::{QUOTA, cgroup, numbers};
use crate::case::cases;
use crate::expect::refused;
use crate::{Context, Failure, Outcome};

cases! { "fields":
    all_at_once [User, SupplementaryGroups, WorkingDir, Hostname, Mounts, MountsReadOnly, TcpPorts,
        MemoryLimit, SharedMemory, CpuCount, Wait, Logs];
    user_by_number [User, Wait, Logs];
    user_and_group_by_number [User, Wait, Logs];
    user_by_name [UserName, Wait, Logs];
    group_by_name [User, GroupName, Wait, Logs];
    user_that_the_image_has_not [UserName];
    user_and_group_of_the_image [User, ImageGroup, Wait, Logs];
    groups_of_the_image [User, Wait, Logs];
    groups_of_user_and_group [User, Wait, Logs];
    groups [User, SupplementaryGroups, Wait, Logs];
    groups_by_name [User, SupplementaryGroups, GroupName, Wait, Logs];
    working_dir [WorkingDir, Wait, Logs];
    env [Wait, Logs];
    env_is_not_added_to [Wait, Logs];
    env_names [EnvNames, Wait, Logs];
    env_unset [EnvUnset, Wait, Logs];
    arguments_are_not_expanded [Wait, Logs];
    hostname [Hostname, Wait, Logs];
    own_name_resolves_to_own_address [Wait, Logs];
    mount_of_the_hosts_file [Mounts, Wait, Logs];
    mounts [Mounts, Wait, Logs];
    mounts_read_only [Mounts, MountsReadOnly, Wait, Logs];
    mount_of_a_file [Mounts, Wait, Logs];
    mount_of_an_odd_path [Mounts, Wait, Logs];
    mounts_of_every_kind [Mounts, Wait, Logs];
    system_calls_are_filtered [Wait, Logs];
    tcp_ports [TcpPorts, Logs, Wait];
    tcp_ports_of_two_containers [TcpPorts];
    standard_input_is_empty [Wait, Logs];
    interactive_stdin [InteractiveStdin, Wait, Logs];
    interactive_terminal [Terminal, Wait, Logs];
}

async fn all_at_once(t: Context) -> Outcome {
    let folder = t.folder()?;
    std::fs::write(folder.join("from-host"), "host")?;
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777))?;
    let script = format!(
        "id -u; id -g; id -G; pwd; hostname; echo $MINE; cat /ro/from-host; echo; \
         (echo no > /ro/x) 2>/dev/null || echo read-only; echo inside > /rw/from-container; \
         df -k /dev/shm | tail -n 1 | awk '{{print $2}}'; {}; {QUOTA}; echo; echo \"$@\"",
        cgroup("memory/memory.limit_in_bytes", "memory.max"),
    );
    let spec = t
        .spec()
        .command(["sh", "-c"])
        .arguments([script.as_str(), "sh", "last", "words"])
        .name(t.name("full"))
        .env("MINE", "mine")
        .label("purpose", "everything")
        .mount(Mount::new(&folder, "/rw"))
        .mount(Mount::read_only(&folder, "/ro"))
        .memory(64 << 20)
        .shared_memory(16 << 20)
        .cpu_count(0.5)
        .user("1000:1000")
        .group("44")
        .working_dir("/srv")
        .tcp_port(8080)
        .hostname("full-box")
        .stop_grace(Duration::from_secs(3));
    let container = t.create(&spec).await?;
    let info = container.info().await?;
    assert_eq!((info.memory, info.cpu_count), (Some(64 << 20), Some(0.5)));
    assert_eq!(info.labels, spec.labels);
    container.start().await?;
    let exit = container.wait().await?;
    let text = t.text(&*container).await?;
    assert!(exit.success(), "{exit}: {text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 12, "{text}");
    assert_eq!(lines[..2], ["1000", "1000"], "{text}");
    assert!(lines[2].split(' ').any(|group| group == "44"), "{text}");
    assert_eq!(
        lines[3..10],
        ["/srv", "full-box", "mine", "host", "read-only", "16384", "67108864"],
        "{text}"
    );
    let quota = numbers(lines[10]);
    assert_eq!((quota.len(), quota[0] / quota[1]), (2, 0.5), "{text}");
    assert_eq!(lines[11], "last words");
    assert_eq!(std::fs::read_to_string(folder.join("from-container"))?, "inside\n");
    Ok(())
}

async fn id_of(t: &Context, spec: ContainerSpec) -> Result<String, Failure> {
    t.output(&spec.command(["sh", "-c", "echo $(id -u) $(id -g)"])).await
}

async fn user_by_number(t: Context) -> Outcome {
    let id = id_of(&t, t.spec().user("1234")).await?;
    assert!(id.starts_with("1234 "), "{id}");
    Ok(())
}

async fn user_and_group_by_number(t: Context) -> Outcome {
    assert_eq!(id_of(&t, t.spec().user("1234:5678")).await?, "1234 5678\n");
    Ok(())
}

async fn user_by_name(t: Context) -> Outcome {
    assert_eq!(id_of(&t, t.spec().user("alice")).await?, "1000 1000\n");
    Ok(())
}

async fn group_by_name(t: Context) -> Outcome {
    assert_eq!(id_of(&t, t.spec().user("1000:video")).await?, "1000 44\n");
    Ok(())
}

async fn user_that_the_image_has_not(t: Context) -> Outcome {
    let spec = t.spec().user("nobody-of-that-name");
    let tried = match t.runtime().create_container(&spec).await {
        Err(error) => Err(error),
        Ok(container) => container.start().await.map(drop),
    };
    refused(tried, ErrorKind::InvalidArgument)?;
    Ok(())
}

async fn user_and_group_of_the_image(t: Context) -> Outcome {
    let spec = ContainerSpec::new(t.image(t.subject().images().grouped));
    assert_eq!(id_of(&t, spec.clone()).await?, "1234 5678\n");
    assert_eq!(id_of(&t, spec.user("4321:8765")).await?, "4321 8765\n");
    Ok(())
}

/// Returns the groups of a process that runs as a user whom the image has in `video` (44).
async fn groups_of_alice(t: &Context, user: &str) -> Result<String, Failure> {
    t.output(&t.spec().command(["id", "-G"]).user(user)).await
}

async fn groups_of_the_image(t: Context) -> Outcome {
    let text = groups_of_alice(&t, "1000").await?;
    assert!(text.split_whitespace().any(|group| group == "44"), "{text}");
    Ok(())
}

async fn groups_of_user_and_group(t: Context) -> Outcome {
    assert_eq!(groups_of_alice(&t, "1000:1000").await?, "1000\n");
    Ok(())
}

/// Replaces `groups_of_user_and_group` on engines that add the groups of the image.
pub(crate) async fn groups_of_the_image_as_well(t: Context) -> Outcome {
    assert_eq!(groups_of_alice(&t, "1000:1000").await?, "1000 44\n");
    Ok(())
}

async fn groups(t: Context) -> Outcome {
    let spec = t.spec().command(["id", "-G"]).user("1234").group("44").group("4321");
    let text = t.output(&spec).await?;
    let groups: Vec<&str> = text.split_whitespace().collect();
    assert!(groups.contains(&"44") && groups.contains(&"4321"), "{groups:?}");
    Ok(())
}

async fn groups_by_name(t: Context) -> Outcome {
    let text = t.output(&t.spec().command(["id", "-G"]).user("1234").group("video")).await?;
    assert!(text.split_whitespace().any(|group| group == "44"), "{text}");
    Ok(())
}

async fn working_dir(t: Context) -> Outcome {
    assert_eq!(t.output(&t.spec().command(["pwd"]).working_dir("/var/tmp")).await?, "/var/tmp\n");
    Ok(())
}

async fn env(t: Context) -> Outcome {
    let values = [
        ("PLAIN", "value"),
        ("EMPTY", ""),
        ("BLANKS", "  two  blanks  "),
        ("QUOTES", "it's \"quoted\""),
        ("EQUALS", "a=b=c"),
        ("DOLLAR", "$HOME ${HOME} $(PLAIN) $$(PLAIN) $$"),
        ("BACKSLASH", "\\n\\t\\"),
        ("LINES", "one\ntwo"),
        ("UNICODE", "ä 日本 🦀"),
        ("lower.with-dots", "fine"),
    ];
    let mut spec = t.spec().command(["cat", "/proc/self/environ"]);
    for (name, value) in values {
        spec = spec.env(name, value);
    }
    let text = t.output(&spec).await?;
    let seen: Vec<&str> = text.split('\0').collect();
    for (name, value) in values {
        assert!(seen.contains(&format!("{name}={value}").as_str()), "{name} in {seen:?}");
    }
    Ok(())
}

async fn env_names(t: Context) -> Outcome {
    let names =
        ["1", "0AB", "two words", "..up", "a/b", "a$b", "tab\there", "ä", "日本", "%", "{}"];
    let spec = t.spec().command(["cat", "/proc/self/environ"]);
    let spec = names.iter().fold(spec, |spec, name| spec.env(*name, format!("is {name}")));
    let text = t.output(&spec).await?;
    let seen: Vec<&str> = text.split('\0').collect();
    for name in names {
        assert!(seen.contains(&format!("{name}=is {name}").as_str()), "{name} in {seen:?}");
    }
    Ok(())
}

async fn env_unset(t: Context) -> Outcome {
    let entry = ContainerSpec::new(t.image(t.subject().images().entry));
    let spec = entry.command(["/bin/cat", "/proc/self/environ"]);
    let names = async |spec: &ContainerSpec| {
        let text = t.output(spec).await?;
        let names = text.split('\0').filter_map(|variable| variable.split_once('='));
        Ok::<_, Failure>(names.map(|(name, _)| name.to_owned()).collect::<Vec<_>>())
    };
    let of_the_image = "FROM_IMAGE".to_owned();
    assert!(names(&spec).await?.contains(&of_the_image));
    let unset =
        spec.env("MINE", "1").unset_env("FROM_IMAGE").unset_env("NO_SUCH").unset_env("PATH");
    let seen = names(&unset).await?;
    assert!(seen.contains(&"MINE".to_owned()), "{seen:?}");
    for name in ["FROM_IMAGE", "NO_SUCH", "PATH"] {
        assert!(!seen.contains(&name.to_owned()), "{name} in {seen:?}");
    }
    assert!(names(&unset.env("FROM_IMAGE", "x")).await?.contains(&of_the_image));
    Ok(())
}

/// The variables that engines set are a fixed list; the library adds one variable.
async fn env_is_not_added_to(t: Context) -> Outcome {
    let spec = t.spec().command(["cat", "/proc/self/environ"]).env("MINE", "1");
    let text = t.output(&spec).await?;
    const KNOWN: &[&str] = &["PATH", "HOME", "HOSTNAME", "TERM", "container", "MINE"];
    for variable in text.split('\0').filter(|variable| !variable.is_empty()) {
        let name = variable.split('=').next().unwrap_or_default();
        if variable != "NVIDIA_VISIBLE_DEVICES=none" {
            assert!(KNOWN.contains(&name), "{variable} was added");
        }
    }
    assert!(text.contains("NVIDIA_VISIBLE_DEVICES=none"), "{text}");
    Ok(())
}

async fn arguments_are_not_expanded(t: Context) -> Outcome {
    let words = ["$HOME", "$(PLAIN)", "$$(PLAIN)", "", "two words", "*", "a\nb", "\\n", "ä🦀"];
    let command = ["printf", "%s|"].into_iter().chain(words);
    let text = t.output(&t.spec().command(command).env("PLAIN", "value")).await?;
    assert_eq!(text.trim_end_matches('|').split('|').collect::<Vec<_>>(), words);
    let spec = t.spec().command(["printf", "%s|"]).arguments(words).env("PLAIN", "value");
    assert_eq!(t.output(&spec).await?, text);
    Ok(())
}

async fn hostname(t: Context) -> Outcome {
    assert_eq!(t.output(&t.spec().command(["hostname"]).hostname("box-7")).await?, "box-7\n");
    Ok(())
}

async fn own_name_resolves_to_own_address(t: Context) -> Outcome {
    let script = "hostname -i; grep localhost /etc/hosts; ip -o addr show";
    let mut specs = vec![t.script(script)];
    if t.has(Capability::User) {
        specs.push(t.script(script).user("1000"));
    }
    if t.has(Capability::Hostname) {
        specs.push(t.script(script).hostname("box-8"));
    }
    for spec in specs {
        let text = t.output(&spec).await?;
        let address = text.lines().next().unwrap_or_default().trim();
        assert!(address.parse::<std::net::IpAddr>().is_ok(), "{address:?} in {text:?}");
        let interface = format!(" {address}/");
        assert!(
            text.lines().any(|line| line.contains(&interface)),
            "{address} is not its own: {text}"
        );
    }
    Ok(())
}

async fn mount_of_the_hosts_file(t: Context) -> Outcome {
    let hosts = t.folder()?.join("hosts");
    std::fs::write(&hosts, "127.0.0.1 of-the-caller\n")?;
    let spec = t.spec().command(["cat", "/etc/hosts"]).mount(Mount::new(&hosts, "/etc/hosts"));
    assert_eq!(t.output(&spec).await?, "127.0.0.1 of-the-caller\n");
    Ok(())
}

async fn mounts(t: Context) -> Outcome {
    let (one, two) = (t.folder()?, t.folder()?);
    std::fs::write(one.join("from-host"), "one")?;
    let script = "cat /one/from-host; echo two > /deep/er/two/from-container; ls /deep/er/two";
    let spec =
        t.script(script).mount(Mount::new(&one, "/one")).mount(Mount::new(&two, "/deep/er/two"));
    assert_eq!(t.output(&spec).await?, "onefrom-container\n");
    assert_eq!(std::fs::read_to_string(two.join("from-container"))?, "two\n");
    Ok(())
}

async fn mounts_read_only(t: Context) -> Outcome {
    let folder = t.folder()?;
    std::fs::write(folder.join("from-host"), "host ")?;
    let script = "cat /data/from-host; touch /data/x 2>/dev/null || echo read-only; \
                  rm /data/from-host 2>/dev/null || echo kept";
    let spec = t.script(script).mount(Mount::read_only(&folder, "/data"));
    assert_eq!(t.output(&spec).await?, "host read-only\nkept\n");
    assert!(folder.join("from-host").exists() && !folder.join("x").exists());
    Ok(())
}

async fn mount_of_a_file(t: Context) -> Outcome {
    let file = t.folder()?.join("a file of settings");
    std::fs::write(&file, "content")?;
    let spec = t.spec().command(["cat", "/etc/config"]).mount(Mount::new(&file, "/etc/config"));
    assert_eq!(t.output(&spec).await?, "content");
    Ok(())
}

/// Uses characters that are legal in a path and special in the short mount syntax of engines.
async fn mount_of_an_odd_path(t: Context) -> Outcome {
    let file = t.folder()?.join("with:colons,commas=and $(SIGNS)");
    std::fs::write(&file, "content")?;
    let spec = t.spec().command(["cat", "/etc/con fig"]).mount(Mount::new(&file, "/etc/con fig"));
    assert_eq!(t.output(&spec).await?, "content");
    Ok(())
}

/// Mounts with and without a kind, so that the backend has to detect a missing kind.
async fn mounts_of_every_kind(t: Context) -> Outcome {
    let folder = t.folder()?;
    let (file, socket, fifo) = (folder.join("file"), folder.join("socket"), folder.join("fifo"));
    std::fs::write(&file, "content")?;
    let _listener = std::os::unix::net::UnixListener::bind(&socket)?;
    let made = std::process::Command::new("mkfifo").arg(&fifo).status()?;
    assert!(made.success(), "{made}");
    let spec = t
        .script("test -d /d && test -f /f && test -S /s && test -c /n && test -p /p; echo $?")
        .mount(Mount::new(&folder, "/d"))
        .mount(Mount::new(&socket, "/s"))
        .mount(Mount::new("/dev/null", "/n"))
        .mount(Mount::new(&file, "/f").kind(MountKind::File))
        .mount(Mount::new(&fifo, "/p").kind(MountKind::Fifo));
    assert_eq!(t.output(&spec).await?, "0\n");
    let kinds = t
        .script("test -d /d && test -S /s && test -c /n; echo $?")
        .mount(Mount::new(&folder, "/d").kind(MountKind::Directory))
        .mount(Mount::new(&socket, "/s").kind(MountKind::Socket))
        .mount(Mount::new("/dev/null", "/n").kind(MountKind::CharDevice));
    assert_eq!(t.output(&kinds).await?, "0\n");
    Ok(())
}

/// Mode 2 is a filter. With the default filter of every engine, an unprivileged process cannot create a user
/// namespace.
async fn system_calls_are_filtered(t: Context) -> Outcome {
    let script = "grep Seccomp: /proc/self/status | tr -d '\\t'; \
                  unshare -U true 2>/dev/null && echo made || echo refused";
    assert_eq!(t.output(&t.script(script)).await?, "Seccomp:2\nrefused\n");
    Ok(())
}

async fn tcp_ports(t: Context) -> Outcome {
    let script = "mkdir /tmp/a /tmp/b; echo eighty > /tmp/a/index.html; \
                  echo eighty-one > /tmp/b/index.html; \
                  httpd -p 8080 -h /tmp/a; exec httpd -f -p 8081 -h /tmp/b";
    let spec = t.script(script).tcp_port(8080).tcp_port(8081).stop_grace(Duration::from_secs(1));
    let container = t.create(&spec).await?;
    let before = container.info().await?.tcp_ports;
    assert!(before.is_empty(), "ports before the start: {before:?}");
    container.start().await?;
    let info = container.info().await?;
    assert_eq!(info.tcp_ports.len(), 2, "{:?}", info.tcp_ports);
    let (one, two) = (t.host_port(&*container, 8080).await?, t.host_port(&*container, 8081).await?);
    assert_ne!(one, two);
    for (port, page) in [(one, "eighty\n"), (two, "eighty-one\n")] {
        let answer = t.talk(port, b"GET /index.html HTTP/1.0\r\n\r\n").await?;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.ends_with(page), "{answer}");
    }
    container.stop(StopOptions::default()).await?;
    let after = container.info().await?.tcp_ports;
    assert!(after.is_empty(), "ports after the end: {after:?}");
    Ok(())
}

async fn tcp_ports_of_two_containers(t: Context) -> Outcome {
    let spec = t.idle().tcp_port(8080);
    let (one, two) = (t.start(&spec).await?, t.start(&spec).await?);
    assert_ne!(t.host_port(&*one, 8080).await?, t.host_port(&*two, 8080).await?);
    let listed = t.runtime().list_containers(runtime_core::ListOptions::default()).await?;
    assert_eq!(listed.len(), 2);
    for listed in listed {
        assert_eq!(listed.info.tcp_ports, listed.container.info().await?.tcp_ports);
    }
    Ok(())
}

async fn standard_input_is_empty(t: Context) -> Outcome {
    assert_eq!(t.output(&t.script("cat; echo eof")).await?, "eof\n");
    Ok(())
}

async fn interactive_stdin(t: Context) -> Outcome {
    let script = "readlink /proc/self/fd/0; [ -t 0 ] || echo no terminal";
    let text = t.output(&t.script(script).interactive(Interactive::Stdin)).await?;
    assert!(!text.contains("/dev/null"), "{text}");
    assert!(text.ends_with("no terminal\n"), "{text}");
    Ok(())
}

async fn interactive_terminal(t: Context) -> Outcome {
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && echo terminal";
    let text = t.output(&t.script(script).interactive(Interactive::Terminal)).await?;
    assert_eq!(text, "terminal\r\n");
    Ok(())
}
