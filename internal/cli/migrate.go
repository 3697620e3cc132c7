package cli

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/dockerenv"
	"github.com/hyve-vm/hyve/internal/migrate"
	"github.com/hyve-vm/hyve/internal/progress"
)

// A migration is what the flags of migrate say.
type migration struct {
	from                        string
	images, volumes, containers []string
	start, dryRun               bool
	format                      string
}

func (a *app) migrateCommand() *cobra.Command {
	var options migration
	cmd := &cobra.Command{
		Use:   "migrate --from CONTEXT [NAME]",
		Short: "Copy images, volumes and containers from another engine",
		Long: `Copy what is in another docker engine, that of Docker Desktop, Colima or another machine
for example, into a machine: images, volumes with all that is in them, and containers as
they were made, with the networks they are in. What containers have written outside of
volumes stays behind. The other engine is only read. What was cut short goes on where it
was when the same command is given again.

Where images, volumes or containers are named, only these are copied, and what they need.`,
		Example: "  hyve migrate --from desktop-linux\n  hyve migrate --from colima dev --containers 'shop-*' --start",
		Args:    atMostOne, ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error { return a.migrate(cmd, args, options) },
	}
	f := cmd.Flags()
	f.StringVar(&options.from, "from", "", "docker `CONTEXT` of the engine to copy from, or its address")
	f.StringArrayVar(&options.images, "images", nil, "yes, no, or a `NAME` (repeatable; * and ? stand for others)")
	f.StringArrayVar(&options.volumes, "volumes", nil, "the same for volumes, by `NAME`")
	f.StringArrayVar(&options.containers, "containers", nil, "the same for containers, by `NAME`")
	f.BoolVar(&options.start, "start", false, "start the containers that run in the other engine")
	f.BoolVar(&options.dryRun, "dry-run", false, "print what would be copied, and copy nothing")
	formatFlag(cmd, &options.format)
	return cmd
}

// selection reads the filters.
func (m migration) selection() (what migrate.Selection, err error) {
	for _, flag := range []struct {
		name   string
		values []string
		filter *migrate.Filter
	}{{"images", m.images, &what.Images}, {"volumes", m.volumes, &what.Volumes}, {"containers", m.containers, &what.Containers}} {
		if *flag.filter, err = migrate.ParseFilter(flag.values); err != nil {
			return what, &usageError{fmt.Errorf("--%s: %w", flag.name, err), "give yes, no, or names"}
		}
	}
	return what, nil
}

func (a *app) migrate(cmd *cobra.Command, args []string, options migration) error {
	if options.from == "" {
		return &usageError{errors.New("--from is missing: the docker context to copy from"), "docker context ls lists them"}
	}
	what, err := options.selection()
	if err != nil {
		return err
	}
	m, err := a.load(args)
	if err != nil {
		return err
	}
	contexts, err := a.contexts(m.Home())
	if err != nil {
		return err
	}
	endpoint, err := contexts.Endpoint(a.getenv, options.from)
	if err != nil {
		return err
	}
	if _, err := running(cmd.Context(), m); err != nil {
		return err
	}
	from, to := endpoint.Open(), dockerenv.Endpoint{Host: "unix://" + m.Dir().DockerSocket()}.Open()
	defer from.Close()
	defer to.Close()
	looking := progress.New(a.stderr)
	looking.Stage("Looking at what " + options.from + " has")
	plan, err := migrate.Prepare(cmd.Context(), from, to, m.Dir().Migrations(), what)
	looking.Close()
	if err != nil {
		if source := (*migrate.SourceError)(nil); errors.As(err, &source) {
			return &sourceError{options.from, err}
		}
		return fmt.Errorf("migrating from %s: %w", options.from, err)
	}
	defer plan.Close()
	if options.dryRun {
		return a.printPlan(plan, options.format)
	}
	p := progress.New(a.stderr)
	defer p.Close()
	result, err := plan.Run(cmd.Context(), m.Name, options.start, followMigration(p))
	p.Close()
	for _, left := range plan.Left {
		if err := a.say("%s %s stays behind: %s", left.Kind, left.Name, left.Why); err != nil {
			return err
		}
	}
	if err != nil {
		return fmt.Errorf("migrating from %s: %w", options.from, err)
	}
	if err := a.say("%s", summary(result, m.Name)); err != nil {
		return err
	}
	if result.Failed > 0 {
		return &failedError{result.Failed}
	}
	return nil
}

// sourceError says why nothing can be copied from a context.
type sourceError struct {
	from  string
	cause error
}

func (e *sourceError) Error() string { return fmt.Sprintf("migrating from %s: %v", e.from, e.cause) }

func (e *sourceError) Unwrap() error { return e.cause }

func (e *sourceError) Hint() string {
	return "docker --context " + quoteWords([]string{e.from}) + " version tells whether its engine answers"
}

// failedError says that not everything was copied.
type failedError struct{ things int }

func (e *failedError) Error() string {
	return fmt.Sprintf("%s could not be copied, for the reasons above", count(e.things, "thing"))
}

func (e *failedError) Hint() string {
	return "deal with them and give the same command again: what has arrived is not sent again"
}

// followMigration shows how a migration goes.
func followMigration(p *progress.Progress) migrate.Follower {
	var stage *progress.Stage
	return migrate.Follower{
		Begin: func(item migrate.Item) { stage = p.Stage("Copying " + item.Kind + " " + item.Name) },
		Bytes: func(done, total int64) {
			if total < done { // archives are larger than what is in them
				total = 0
			}
			stage.Bytes(done, total)
		},
		Done: func(item migrate.Item) { stage.Done("Copied " + item.Kind + " " + item.Name) },
		Note: func(line string) { p.Print("note: " + line) },
		Failed: func(item migrate.Item, err error) {
			if stage != nil {
				stage.Fail()
			}
			p.Print(fmt.Sprintf("%s %s: %v", item.Kind, item.Name, err))
		},
	}
}

// summary says what was done.
func summary(result migrate.Result, machine string) string {
	var copied []string
	for _, kind := range []string{migrate.KindImage, migrate.KindVolume, migrate.KindNetwork, migrate.KindContainer} {
		if n := result.Copied[kind]; n > 0 {
			copied = append(copied, count(n, kind))
		}
	}
	text := "there was nothing to copy"
	if len(copied) > 0 {
		text = strings.Join(copied, ", ") + " copied"
	}
	text += fmt.Sprintf(" to machine %q", machine)
	if result.There > 0 {
		text += fmt.Sprintf("; %d were there", result.There)
	}
	return text
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func (a *app) printPlan(plan *migrate.Plan, format string) error {
	if format == "json" {
		return printJSON(a, plan)
	}
	w := tabwriter.NewWriter(a.stdout, 5, 1, 3, ' ', 0)
	fmt.Fprintln(w, "KIND\tNAME\tSIZE\tWHAT")
	for _, item := range plan.Items {
		size, what := "", "to be copied"
		if item.Size > 0 {
			size = units.HumanSize(float64(item.Size))
		} else if item.Size < 0 {
			size = "?"
		}
		if item.There {
			what = "is there"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", item.Kind, item.Name, size, what)
	}
	for _, left := range plan.Left {
		fmt.Fprintf(w, "%s\t%s\t\tstays behind: %s\n", left.Kind, left.Name, left.Why)
	}
	return w.Flush()
}
