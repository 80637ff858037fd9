//! Keeps the pages that are made from definitions equal to them: `docs/options.md` lists every option of every service,
//! `docs/cli.md` all that the command takes, `docs/output.md` what it prints as JSON, `docs/metrics.md` every metric of every service.
//!
//! The tests compare; `make docs` runs them with `WEFT_WRITE_GENERATED=1`, which writes.

#[cfg(test)]
mod metrics;
#[cfg(test)]
mod output;

#[cfg(test)]
mod tests {
    use std::{fmt::Write, fs, path::Path};

    use clap::{Arg, Command, CommandFactory, Id};

    const COMMAND: &str = "\
# The command

Made from its own definition by `make docs`; the man pages and completions that `weft install` writes say the same.

| exit code | when |
| --- | --- |
| 0 | all was done. What is gone already, or was never there, counts as taken away, and stderr says so; `weft version` tells of services that are away, too |
| 1 | something failed, or a service is away; stderr says what, in a sentence, or the output does |
| 2 | the command line makes no sense |
| 3 | `weft launch`: weft runs already |
| 128 + n | the signal n ended it, as shells say: 130 after Ctrl-C |

Results go to stdout, all else to stderr. With `--output json` every verb prints one JSON object, also those that print nothing for people; its
fields are in [output.md](output.md). What takes longer than a second says what it waits for, on a terminal; colours are for terminals alone, too.

Under the name `weave`, a link that `weft install --weave` makes, it has Weave Net's words, defaults and exit codes:
[migrating.md](migrating.md#the-command). There a command line that makes no sense ends with 1.
";

    const INTRODUCTION: &str = "\
# Options

Made from the programs' own definitions by `make docs`. An option on the command line wins over its variable in the
environment; `compose.yaml` passes the variables on that a user may set, and `weft launch` has options for them. What the command
itself takes stands in [cli.md](cli.md).
";

    #[test]
    fn options_are_documented_as_defined() {
        let mut text = INTRODUCTION.to_owned();
        for program in [
            weft_router::config::Config::command(),
            weft_ipam::Config::command(),
            weft_dns::Config::command(),
            weft_docker_proxy::config::Config::command(),
        ] {
            describe(&mut text, program, 2, &[]).expect("a string can be written to");
        }
        compare("options.md", &text);
    }

    #[test]
    fn the_command_is_documented_as_defined() {
        let mut text = COMMAND.to_owned();
        describe(&mut text, weft::definition(), 2, &[]).expect("a string can be written to");
        compare("cli.md", &text);
    }

    /// `weft launch` says again, in a line, what the services define: under the same name, for a variable that reaches them.
    #[test]
    fn what_launch_sets_is_what_the_services_read() {
        let compose = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compose.yaml"));
        let compose = compose.expect("the definition can be read");
        let services = [
            weft_router::config::Config::command(),
            weft_ipam::Config::command(),
            weft_dns::Config::command(),
            weft_docker_proxy::config::Config::command(),
        ];
        let known: Vec<String> = services
            .iter()
            .flat_map(Command::get_arguments)
            .filter_map(|argument| Some(argument.get_env()?.to_string_lossy().into_owned()))
            .collect();
        for (option, variable) in weft::launch_settings() {
            let passed =
                compose.contains(&format!("      {variable}:\n")) || compose.contains(&format!("${{{variable}:"));
            assert!(
                passed || variable == "WEFT_PASSWORD",
                "compose.yaml passes no {variable} on, which --{option} sets"
            );
            let read = known.iter().any(|name| name == variable);
            assert!(read || variable == "WEFT_RESTART", "no service reads {variable}, which --{option} sets");
        }
    }

    /// Compares a page with what the definitions say, or writes it.
    pub(crate) fn compare(name: &str, text: &str) {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
        if std::env::var_os("WEFT_WRITE_GENERATED").is_some() {
            fs::write(&page, text).expect("the page can be written");
        }
        let there = fs::read_to_string(&page).unwrap_or_default();
        assert!(there == text, "docs/{name} is not what the definitions say: run `make docs`");
    }

    /// Describes a command and those below it, without the options that are `known` from above.
    fn describe(text: &mut String, mut command: Command, level: usize, known: &[Id]) -> std::fmt::Result {
        command.build();
        let heading = "#".repeat(level);
        let name = command.get_bin_name().unwrap_or(command.get_name()).to_owned();
        let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
        writeln!(text, "\n{heading} `{name}`\n\n{}", about.trim())?;
        let mut arguments = command.get_arguments().filter(|argument| is_shown(argument, known)).peekable();
        if arguments.peek().is_some() {
            writeln!(text, "\n| option | variable | default | meaning |\n| --- | --- | --- | --- |")?;
        }
        for argument in arguments {
            let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
            let variable = argument.get_env().map(|name| name.to_string_lossy().into_owned());
            let variable =
                variable.or_else(|| of_launch(&name, argument)).map(|name| format!("`{name}`")).unwrap_or_default();
            let meaning = help.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
            writeln!(text, "| {} | {variable} | {} | {meaning} |", usage(argument), default(argument))?;
        }
        let verbs: Vec<Command> = command.get_subcommands().filter(|verb| verb.get_name() != "help").cloned().collect();
        let global = command.get_arguments().filter(|argument| argument.is_global_set());
        let known: Vec<Id> = global.map(|argument| argument.get_id().clone()).collect();
        verbs.into_iter().try_for_each(|verb| describe(text, verb, level + 1, &known))
    }

    /// Returns the variable that an option of `weft launch` sets.
    fn of_launch(verb: &str, argument: &Arg) -> Option<String> {
        let settings = weft::launch_settings();
        let setting = settings.iter().find(|(option, _)| verb == "weft launch" && Some(*option) == argument.get_long());
        setting.map(|(_, variable)| (*variable).to_owned())
    }

    fn is_shown(argument: &Arg, known: &[Id]) -> bool {
        let of_clap = matches!(argument.get_id().as_str(), "help" | "version");
        !of_clap && !argument.is_hide_set() && !known.contains(argument.get_id())
    }

    fn usage(argument: &Arg) -> String {
        let values: Vec<&str> =
            argument.get_value_names().unwrap_or_default().iter().map(|name| name.as_str()).collect();
        let takes_value = argument.get_action().takes_values();
        let value = if takes_value { values.join(" ") } else { String::new() };
        let short = argument.get_short().map(|short| format!("-{short}, ")).unwrap_or_default();
        let is_optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
        match argument.get_long() {
            Some(long) if value.is_empty() => format!("`{short}--{long}`"),
            Some(long) if is_optional => format!("`{short}--{long}[=<{value}>]`"),
            Some(long) => format!("`{short}--{long} <{value}>`"),
            None => format!("`{value}`"),
        }
    }

    fn default(argument: &Arg) -> String {
        let values = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned());
        let text = values.collect::<Vec<_>>().join(" ");
        let no_value = text.is_empty() || !argument.get_action().takes_values();
        if no_value { String::new() } else { format!("`{text}`") }
    }
}
