package dockermachine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/pflag"
)

type flagSet = *pflag.FlagSet

// A word is one of docker-machine's commands.
type word struct {
	name, usage, description string
	flags                    flagSet
	raw                      bool // it reads its arguments itself, and looks for the home
	homeless                 bool // it looks for the home only if it wants it
	run                      func(ctx context.Context, args []string) error
}

func (c *client) words() []*word {
	return []*word{
		c.activeWord(), c.configWord(), c.createWord(), c.envWord(), c.inspectWord(), c.ipWord(), c.killWord(), c.listWord(),
		c.provisionWord(), c.regenerateWord(), c.restartWord(), c.removeWord(), c.sshWord(), c.scpWord(), c.mountWord(),
		c.startWord(), c.statusWord(), c.stopWord(), c.upgradeWord(), c.urlWord(), c.versionWord(), c.helpWord(),
	}
}

// word returns the word of that name, nil if there is none.
func (c *client) word(name string) *word {
	if name == "h" {
		name = "help"
	}
	for _, w := range c.words() {
		if w.name == name {
			return w
		}
	}
	return nil
}

func newFlags() flagSet {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	flags.SortFlags = false // as listed
	flags.Usage = func() {}
	return flags
}

// shows are the flags that want something shown instead of a word.
type shows struct{ version, help bool }

func (c *client) globalFlags() (flagSet, *shows) {
	var show shows
	var ignored string
	f := newFlags()
	f.BoolVarP(&c.debug, "debug", "D", false, "Enable debug mode")
	f.StringVarP(&c.storage, "storage-path", "s", "", "Configures storage path [$MACHINE_STORAGE_PATH]")
	f.StringVar(&c.caCert, "tls-ca-cert", "", "CA to verify remotes against [$MACHINE_TLS_CA_CERT]")
	f.StringVar(&c.caKey, "tls-ca-key", "", "Private key to generate certificates [$MACHINE_TLS_CA_KEY]")
	f.StringVar(&c.clientCert, "tls-client-cert", "", "Client cert to use for TLS [$MACHINE_TLS_CLIENT_CERT]")
	f.StringVar(&c.clientKey, "tls-client-key", "", "Private key used in client TLS auth [$MACHINE_TLS_CLIENT_KEY]")
	f.StringVar(&ignored, "github-api-token", "", "Not used: nothing is fetched from GitHub [$MACHINE_GITHUB_API_TOKEN]")
	f.BoolVar(&c.nativeSSH, "native-ssh", false, "Use the native (Go-based) SSH implementation. [$MACHINE_NATIVE_SSH]")
	f.StringVar(&ignored, "bugsnag-api-token", "", "Not used: nobody is told of crashes [$MACHINE_BUGSNAG_API_TOKEN]")
	f.BoolVarP(&show.help, "help", "h", false, "show help")
	f.BoolVarP(&show.version, "version", "v", false, "print the version")
	return f, &show
}

// parse reads flags as docker-machine has them, where -flag is --flag, and returns what
// else there is. Where mixed is set, flags may follow the names.
func parse(flags flagSet, args []string, mixed bool) (rest []string, err error) {
	plain, err := normalise(flags, args, mixed)
	if err != nil {
		return nil, err
	}
	flags.SetInterspersed(mixed)
	err = flags.Parse(plain)
	if invalid := (*pflag.InvalidValueError)(nil); errors.As(err, &invalid) {
		err = fmt.Errorf("invalid value %q for flag -%s: parse error", invalid.GetValue(), invalid.GetFlag().Name)
	}
	if err != nil {
		return nil, err
	}
	return flags.Args(), nil
}

// errHelp says that help is asked for.
var errHelp = errors.New("help is asked for")

// normalise writes flags as pflag has them: -flag as --flag, --f as -f. Values stay as
// they are, whatever they look like.
func normalise(flags flagSet, args []string, mixed bool) ([]string, error) {
	var plain []string
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			return append(plain, args[i:]...), nil
		}
		if len(arg) < 2 || arg[0] != '-' {
			if !mixed {
				return append(plain, args[i:]...), nil
			}
			plain = append(plain, arg)
			continue
		}
		name, value, valued := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		flag := flags.Lookup(name)
		if flag == nil && len(name) == 1 {
			flag = flags.ShorthandLookup(name)
		}
		if flag == nil && (name == "help" || name == "h") {
			return nil, errHelp
		}
		if flag == nil {
			return nil, fmt.Errorf("flag provided but not defined: -%s", printable(name))
		}
		if !valued && flag.NoOptDefVal == "" {
			if i+1 == len(args) {
				return nil, fmt.Errorf("flag needs an argument: -%s", name)
			}
			i++
			value, valued = args[i], true
		}
		if valued {
			plain = append(plain, "--"+flag.Name+"="+value)
		} else {
			plain = append(plain, "--"+flag.Name)
		}
	}
	return plain, nil
}

// misuse is what there is to say to a command line with wrong flags.
func (c *client) misuse(err error, help func()) error {
	fmt.Fprint(c.stdout, "Incorrect Usage.\n\n")
	help()
	return &statusError{err, exitUsage}
}

// help prints what there is.
func (c *client) help() {
	fmt.Fprintf(c.stdout, `Usage: %s [OPTIONS] COMMAND [arg...]

Create and manage machines running Docker.

Version: %s, build hyve-%s

Options:
`, Name, spoken, c.version)
	flags, _ := c.globalFlags()
	c.printFlags(flags, "  ")
	fmt.Fprint(c.stdout, "  \nCommands:\n")
	table := tabwriter.NewWriter(c.stdout, 0, 8, 1, '\t', 0)
	for _, w := range c.words() {
		fmt.Fprintf(table, "  %s\t%s\n", w.name, w.usage)
	}
	table.Flush()
	fmt.Fprintf(c.stdout, "  \nRun '%s COMMAND --help' for more information on a command.\n", Name)
}

// wordHelp prints how a word is used.
func (c *client) wordHelp(w *word) {
	options := ""
	if w.flags.HasFlags() {
		options = " [OPTIONS]"
	}
	fmt.Fprintf(c.stdout, "Usage: %s %s%s [arg...]\n\n%s\n", Name, w.name, options, w.usage)
	if w.description != "" {
		fmt.Fprintf(c.stdout, "\nDescription:\n   %s\n", w.description)
	}
	if w.flags.HasFlags() {
		fmt.Fprint(c.stdout, "\nOptions:\n   \n")
		c.printFlags(w.flags, "   ")
	}
}

// printFlags lists flags as docker-machine does.
func (c *client) printFlags(flags flagSet, indent string) {
	table := tabwriter.NewWriter(c.stdout, 0, 8, 1, '\t', 0)
	flags.VisitAll(func(f *pflag.Flag) {
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = "-" + f.Name
		}
		if f.Shorthand != "" {
			name += ", -" + f.Shorthand
		}
		switch {
		case repeatable(f):
			name += " [" + name + " option " + name + " option]"
		case f.NoOptDefVal == "" && f.DefValue != "":
			name += fmt.Sprintf(" %q", f.DefValue)
		case f.NoOptDefVal == "":
			name += " "
		}
		fmt.Fprintf(table, "%s%s\t%s\n", indent, name, f.Usage)
	})
	table.Flush()
}

func repeatable(f *pflag.Flag) bool { return f.Value.Type() == "stringArray" }

func (c *client) helpWord() *word {
	return &word{
		name: "help", usage: "Shows a list of commands or help for one command", flags: newFlags(), homeless: true,
		run: func(_ context.Context, args []string) error {
			if len(args) == 0 {
				c.help()
				return nil
			}
			w := c.word(args[0])
			if w == nil {
				return c.unknown(args[0])
			}
			c.wordHelp(w)
			return nil
		},
	}
}

// What is wrong with the number of names.
var (
	errExpectedOne = message("Error: Expected one machine name as an argument")
	errTooMany     = message("Error: Too many arguments given")
	errNoDefault   = message("Error: No machine name(s) specified and no %q machine exists", defaultName)
)

// defaultName is the machine that is meant where none is named.
const defaultName = "default"
