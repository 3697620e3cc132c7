package cli

import (
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/hyve-vm/hyve/internal/lifecycle"
	"github.com/hyve-vm/hyve/internal/machine"
)

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot [NAME [TAG]]",
		Short: "Keep a copy of a machine as it is now",
		Long: `Keep a copy of a machine as it is now: its disk and, where machines are frozen,
everything that runs in it. A machine that runs is paused while it is copied. hyve
rollback returns to it. Without a tag it is the time.`,
		Example:           "  hyve snapshot dockerhost before-upgrade\n  hyve rollback dockerhost before-upgrade",
		Args:              nameAndTag,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args[:min(len(args), 1)])
			if err != nil {
				return err
			}
			tag := time.Now().Format("20060102-150405")
			if len(args) == 2 {
				tag = args[1]
			}
			show := a.newDisplay(false)
			defer show.close()
			show.enter("Copying " + m.Name)
			if err := lifecycle.TakeSnapshot(cmd.Context(), m, tag); err != nil {
				return err
			}
			show.done("")
			show.close()
			return a.say("snapshot %q of machine %q is kept", tag, m.Name)
		},
	}
	cmd.AddCommand(a.snapshotListCommand(), a.snapshotRemoveCommand())
	return cmd
}

func nameAndTag(cmd *cobra.Command, args []string) error {
	if len(args) > 2 {
		return &usageError{errors.New("a machine and a tag are expected"), "see " + cmd.CommandPath() + " --help"}
	}
	return nil
}

func (a *app) snapshotListCommand() *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:               "ls [NAME]",
		Aliases:           []string{"list"},
		Short:             "List a machine's snapshots",
		Args:              atMostOne,
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args)
			if err != nil {
				return err
			}
			list, err := lifecycle.Snapshots(m)
			if err != nil {
				return err
			}
			if format == "json" {
				return printJSON(a, list)
			}
			w := tabwriter.NewWriter(a.stdout, 5, 1, 3, ' ', 0)
			fmt.Fprintln(w, "TAG\tCREATED\tMACHINE\tSIZE")
			for _, s := range list {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", s.Tag, s.Created.Local().Format(time.DateTime), s.State, machine.FormatSize(s.Size))
			}
			return w.Flush()
		},
	}
	formatFlag(cmd, &format)
	return cmd
}

func (a *app) snapshotRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rm NAME TAG...",
		Aliases: []string{"remove"},
		Short:   "Remove snapshots",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) < 2 {
				return &usageError{errors.New("a machine and a tag are expected"), "see hyve snapshot rm --help"}
			}
			return nil
		},
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args[:1])
			if err != nil {
				return err
			}
			for _, tag := range args[1:] {
				if err := m.Dir().RemoveSnapshot(tag); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "rollback NAME TAG",
		Short: "Return a machine to a snapshot",
		Long: `Return a machine to a snapshot. Everything that it has done since is lost. A machine
that runs is ended and started again.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &usageError{errors.New("a machine and a tag are expected"), "hyve snapshot ls lists tags"}
			}
			return nil
		},
		ValidArgsFunction: a.completeNames,
		RunE: func(cmd *cobra.Command, args []string) error {
			m, err := a.load(args[:1])
			if err != nil {
				return err
			}
			tag := args[1]
			if _, err := m.Dir().Snapshot(tag); err != nil {
				return err
			}
			if !yes && !a.confirm(fmt.Sprintf("Return machine %q to snapshot %q and lose everything since?", m.Name, tag)) {
				return fmt.Errorf("machine %q was left as it is", m.Name)
			}
			show := a.newDisplay(false)
			defer show.close()
			return lifecycle.Rollback(cmd.Context(), m, tag, show.follow("Starting "+m.Name))
		},
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVarP(&yes, "force", "f", false, "do not ask")
	return cmd
}
