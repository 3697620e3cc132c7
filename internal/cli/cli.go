// Package cli is hyve's words: one file a command. It reads arguments, calls
// lifecycle, and prints.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hyve-vm/hyve/internal/hint"
	"github.com/hyve-vm/hyve/internal/machine"
	"github.com/hyve-vm/hyve/internal/terminal"
)

// Exit statuses, beside those of programs run in a machine.
const (
	exitFailure = 1
	exitUsage   = 2
)

// app is what every command has at hand.
type app struct {
	args   []string // the command line as typed
	getenv func(string) string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// exitError ends hyve with the status of a program that it ran; its output
// has been printed already.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// usageError is a mistake in the command line.
type usageError struct {
	error
	hint string
}

func (e *usageError) Hint() string { return e.hint }

// Main runs a command line and returns the exit status.
func Main(args []string) int {
	// The first signal asks the command to end cleanly, a second one ends it.
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop)

	a := &app{args: args, getenv: os.Getenv, stdin: os.Stdin, stdout: terminal.Clean(os.Stdout), stderr: terminal.Clean(os.Stderr)}
	root := a.root()
	root.SetArgs(args[1:])
	err := root.ExecuteContext(ctx)
	var exit exitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return int(exit)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		fmt.Fprintln(a.stderr, "hyve: interrupted")
		return 128 + int(syscall.SIGINT)
	}
	a.report(err)
	usage, value := (*usageError)(nil), (*machine.ValueError)(nil)
	if errors.As(err, &usage) || errors.As(err, &value) {
		return exitUsage
	}
	return exitFailure
}

// report prints an error on one line and, where it knows the way out, that on
// a line of its own.
func (a *app) report(err error) {
	fmt.Fprintf(a.stderr, "hyve: %v\n", err)
	if way := hint.Of(err); way != "" {
		fmt.Fprintf(a.stderr, "      %s\n", way)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "hyve",
		Short:         "A Docker host in a lightweight VM",
		Long:          "hyve gives you a Docker host in a lightweight VM, on the hypervisor that your\noperating system already has.",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          a.unknownWord,
		RunE: func(cmd *cobra.Command, args []string) error {
			return cmd.Help()
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		Version:           fullVersion(),
	}
	root.SetVersionTemplate("hyve version {{.Version}}\n")
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.SetFlagErrorFunc(flagError)
	root.AddGroup(
		&cobra.Group{ID: "machines", Title: "Machines:"},
		&cobra.Group{ID: "use", Title: "Using a machine:"},
		&cobra.Group{ID: "more", Title: "More:"},
	)
	a.add(root, "machines", a.createCommand(), a.startCommand(), a.stopCommand(), a.suspendCommand(), a.restartCommand(),
		a.killCommand(), a.removeCommand(), a.listCommand(), a.statusCommand(), a.inspectCommand(), a.statsCommand(), a.logsCommand(),
		a.setCommand(), a.upgradeCommand(), a.cloneCommand(), a.snapshotCommand(), a.rollbackCommand(), a.importCommand(), a.migrateCommand())
	a.add(root, "use", a.runCommand(), a.useCommand(), a.activeCommand(), a.envCommand(), a.configCommand(), a.dockerCommand(), a.sshCommand(),
		a.scpCommand(), a.ipCommand(), a.urlCommand())
	a.add(root, "more", a.imageCommand(), a.doctorCommand(), a.versionCommand())
	root.SetHelpCommandGroupID("more")
	root.SetCompletionCommandGroupID("more")
	root.AddCommand(a.superviseCommand())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Run, c.RunE = nil, a.help
		case "completion":
			c.Args, c.RunE = a.unknownWord, func(cmd *cobra.Command, args []string) error { return cmd.Help() }
		}
	}
	mistakes(root)
	return root
}

// help prints the help of the word that is named.
func (a *app) help(cmd *cobra.Command, args []string) error {
	about, rest, err := cmd.Root().Find(args)
	if err != nil {
		return err
	}
	if err := a.unknownWord(about, rest); err != nil {
		return err
	}
	about.InitDefaultHelpFlag() // so that it is listed
	return about.Help()
}

// mistakes makes what cobra's own checks of arguments say usage errors.
func mistakes(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if usage := (*usageError)(nil); err != nil && !errors.As(err, &usage) {
				err = &usageError{err, "see " + cmd.CommandPath() + " --help"}
			}
			return err
		}
	}
	for _, c := range cmd.Commands() {
		mistakes(c)
	}
}

func (a *app) add(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// unknownWord is what hyve says to a word that it does not know.
func (a *app) unknownWord(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	return &usageError{
		fmt.Errorf("%q is not a hyve command", args[0]),
		suggestion(cmd.SuggestionsFor(args[0]), "", "hyve help"),
	}
}

// flagError names the flag that was meant, or says what is wrong with its value.
func flagError(cmd *cobra.Command, err error) error {
	var invalid *pflag.InvalidValueError
	if errors.As(err, &invalid) {
		return &usageError{badValue("--"+invalid.GetFlag().Name, invalid), "see " + cmd.CommandPath() + " --help"}
	}
	var near []string
	if _, flag, ok := strings.Cut(err.Error(), "unknown flag: --"); ok {
		near = similarFlags(cmd, flag)
	}
	return &usageError{err, suggestion(near, "--", cmd.CommandPath()+" --help")}
}

// badValue says what is wrong with the value of what is called name. Numbers and truth
// values are parsed by strconv, whose words are for programmers.
func badValue(name string, invalid *pflag.InvalidValueError) error {
	var syntax *strconv.NumError
	if !errors.As(invalid, &syntax) {
		return fmt.Errorf("%s: %w", name, invalid.Unwrap())
	}
	value := invalid.GetValue()
	switch {
	case errors.Is(syntax, strconv.ErrRange):
		return fmt.Errorf("%s: %s is out of range", name, value)
	case invalid.GetFlag().Value.Type() == "bool":
		return fmt.Errorf("%s: %q is neither true nor false", name, value)
	}
	return fmt.Errorf("%s: %q is not a whole number", name, value)
}

// similarFlags lets cobra find similar words among a command's flags.
func similarFlags(cmd *cobra.Command, flag string) []string {
	words := &cobra.Command{SuggestionsMinimumDistance: 2}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		words.AddCommand(&cobra.Command{Use: f.Name, Run: func(*cobra.Command, []string) {}})
	})
	return words.SuggestionsFor(flag)
}

func suggestion(near []string, prefix, help string) string {
	if len(near) == 0 {
		return "see " + help
	}
	slices.Sort(near)
	return fmt.Sprintf("did you mean %s%s? See %s", prefix, strings.Join(near, " or "+prefix), help)
}

// home returns the data directory.
func (a *app) home() (machine.Home, error) { return machine.DefaultHome(a.getenv) }

// defaultName is the machine that is meant where none is named.
const defaultName = "default"

// resolve returns the name that is meant: the given one, else $HYVE_MACHINE,
// else "default" if it exists, else the only machine there is.
func (a *app) resolve(home machine.Home, args []string) (string, error) {
	if len(args) > 0 {
		return args[0], nil
	}
	if name := a.getenv("HYVE_MACHINE"); name != "" {
		return name, nil
	}
	entries, err := home.List()
	if err != nil {
		return "", err
	}
	if len(entries) == 1 {
		return entries[0].Name, nil
	}
	for _, e := range entries {
		if e.Name == defaultName {
			return e.Name, nil
		}
	}
	if len(entries) == 0 {
		return "", &usageError{errors.New("there is no machine yet"), "make one with: hyve create"}
	}
	return "", &usageError{errors.New("no machine is named, and there are several"), "hyve ls lists them"}
}

// load resolves and loads the machine that a command is about.
func (a *app) load(args []string) (*machine.Machine, error) {
	home, err := a.home()
	if err != nil {
		return nil, err
	}
	name, err := a.resolve(home, args)
	if err != nil {
		return nil, err
	}
	return home.Load(name)
}

// atMostOne accepts a machine's name or nothing.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return &usageError{fmt.Errorf("one machine is expected, not %d", len(args)), "see " + cmd.CommandPath() + " --help"}
	}
	return nil
}

// noArgs accepts nothing.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("%q is not expected here", args[0]), "see " + cmd.CommandPath() + " --help"}
	}
	return nil
}

// completeNames offers the machines' names to the shell.
func (a *app) completeNames(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	home, err := a.home()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	entries, err := home.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}
