//! The command in scripts: exit codes, pipes, formats.

mod shell {
    pub(crate) mod finding;
    pub(crate) mod habits;
    pub(crate) mod life;
    pub(crate) mod logins;
    pub(crate) mod looking;
    pub(crate) mod running;
}

use cli_tests::cases;
use shell::finding::*;
use shell::habits::*;
use shell::life::*;
use shell::logins::*;
use shell::looking::*;
use shell::running::*;

cases! {
    run_is_the_program_that_it_runs [];
    the_outputs_are_apart [LogsStreamsApart];
    what_cannot_be_run [];
    a_start_that_waits_says_why [DeferredPull];
    a_credential_helper_gives_the_login [];
    a_login_that_cannot_be_looked_up_is_none [];
    a_registry_asks_for_the_login_itself [PullImage];
    pipes_in_and_out [Attach, Exec, ExecStdinEof, InteractiveStdin];
    the_first_words_come_through_a_pipe [Attach, ExecStdinEof, InteractiveStdin];
    a_reader_that_goes_away [Exec];
    an_exec_ends_with_its_reader [Exec, ExecSignal];
    signals_reach_the_process [ExecSignal, Kill];
    a_container_is_told_to_end [];
    a_hang_up_that_is_ignored_ends_nothing [];
    a_signal_to_an_exec_is_passed_on_or_not_hidden [Exec];
    h_is_the_host_name [Hostname];
    usage_error_has_the_code_of_docker [];
    two_outputs_in_one_file_keep_their_order [LogsStreamsApart];
    signals_work_after_the_outputs_are_closed [Exec];
    signals_end_an_attach_after_the_outputs_are_closed [Attach, InteractiveStdin, Kill];
    start_of_an_ended_container_is_refused [];
    variable_that_is_unset_here_is_removed [EnvUnset, Exec];
    refused_exec_option_names_image_tools [Exec];
    start_failure_is_printed_once [];
    real_time_signals_have_names [Kill];
    real_time_stop_signal_of_the_options [StopSignal];
    help_is_long_where_h_is_the_host_name [];
    a_life [];
    a_kill [Kill];
    a_signal_by_name_and_a_wait [Kill];
    a_stop_with_another_grace [StopGraceOverride];
    a_container_of_many_options [Mounts, MountsReadOnly, User, WorkingDir];
    variables_of_a_file [];
    a_published_port [TcpPorts];
    lists_and_filters [];
    old_ones_are_reaped [Reap];
    a_detached_one_stays [];
    figures [StatsCpu, StatsMemory];
    one_that_does_not_run_has_no_figures [];
    processes [Exec];
    an_exec_elsewhere [ExecEnv, ExecUser, ExecWorkingDir];
    files [CopyIn, CopyOut, Exec];
    files_through_links [CopyIn, CopyOut, Exec];
    a_file_with_holes [CopyIn, CopyOut, Exec];
    logs [];
    the_outputs_are_apart_in_the_logs [LogsStreamsApart];
    events [Events, EventsSince];
    without_an_engine_it_explains_itself_on_one_screen [];
    the_first_that_answers_is_said [];
    a_url_names_the_engine [];
    a_configuration_file_names_the_engine [];
    completions_and_the_manual [];
}
