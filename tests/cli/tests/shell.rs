//! The command in scripts: exit codes, pipes, formats.

mod shell {
    pub(crate) mod connecting;
    pub(crate) mod docker_habits;
    pub(crate) mod inspection;
    pub(crate) mod lifecycle;
    pub(crate) mod logins;
    pub(crate) mod running;
}

use cli_tests::cases;
use shell::connecting::*;
use shell::docker_habits::*;
use shell::inspection::*;
use shell::lifecycle::*;
use shell::logins::*;
use shell::running::*;

cases! {
    run_returns_exit_code_of_program [];
    run_separates_outputs [LogsStreamsApart];
    run_of_invalid_command_returns_shell_exit_code [];
    pending_start_prints_reason [DeferredPull];
    credential_helper_provides_login [];
    failed_login_lookup_warns_and_pulls_anonymously [];
    pull_without_login_returns_error_of_registry [PullImage];
    pipes_carry_input_and_output [Attach, Exec, ExecStdinEof, InteractiveStdin];
    output_before_attach_is_complete [Attach, ExecStdinEof, InteractiveStdin];
    closed_stdout_ends_command_silently [Exec];
    closed_stdout_ends_exec [Exec, ExecSignal];
    signals_are_forwarded_to_process [ExecSignal, Kill];
    signal_without_kill_stops_container [];
    ignored_hangup_does_not_end_command [];
    signal_to_exec_is_forwarded_or_reported [Exec];
    short_option_h_sets_hostname [Hostname];
    usage_error_has_exit_code_of_docker [];
    outputs_to_one_file_keep_order [LogsStreamsApart];
    signals_are_forwarded_after_outputs_are_closed [Exec];
    signal_ends_attach_after_outputs_are_closed [Attach, InteractiveStdin, Kill];
    start_of_exited_container_is_refused [];
    unset_variable_is_removed [EnvUnset, Exec];
    refused_exec_option_names_image_tools [Exec];
    start_failure_is_printed_once [];
    kill_accepts_real_time_signal_names [Kill];
    stop_sends_configured_real_time_signal [StopSignal];
    help_has_only_long_option_if_h_is_hostname [];
    container_lifecycle [];
    kill_sets_exit_code_137 [Kill];
    kill_by_signal_name_and_wait [Kill];
    stop_with_other_grace [StopGraceOverride];
    run_applies_options [Mounts, MountsReadOnly, User, WorkingDir];
    env_file_sets_variables [];
    published_port_is_reachable [TcpPorts];
    ps_filters_containers [];
    reap_removes_old_containers [Reap];
    detached_container_stays_with_rm [];
    stats_of_running_container [StatsCpu, StatsMemory];
    stats_of_created_container_are_empty [];
    top_lists_processes [Exec];
    exec_applies_options [ExecEnv, ExecUser, ExecWorkingDir];
    cp_copies_files [CopyIn, CopyOut, Exec];
    cp_follows_links [CopyIn, CopyOut, Exec];
    cp_copies_sparse_file [CopyIn, CopyOut, Exec];
    logs_are_printed [];
    logs_separate_outputs [LogsStreamsApart];
    events_are_filtered [Events, EventsSince];
    missing_engine_prints_help_on_one_screen [];
    first_responding_engine_is_printed [];
    url_selects_engine [];
    configuration_file_selects_engine [];
    completions_and_manual_are_printed [];
}
