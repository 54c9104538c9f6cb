package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/belfrylb/belfry/hack/lab"
)

func depsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "deps",
		Short: "Install the Debian packages that the lab needs, or name them",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return lab.InstallPackages(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

func buildCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "build",
		Short: "Build etcd and Kubernetes, unless they are built",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			begun := time.Now()
			programs, err := lab.Build(cmd.Context(), cmd.OutOrStdout())
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%d programs ready after %s, kubectl is %s\n", len(programs), time.Since(begun).Round(100*time.Millisecond), programs["kubectl"])
			return nil
		},
	}
}

func upCommand() *cobra.Command {
	opts := lab.Options{Keep: true}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Bring a cluster up, and leave it up",
		Example: `  lab up --nodes 5
  lab up --control-plane-only       # etcd and the API server on a loopback address, without root`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			opts.Progress = cmd.OutOrStdout()
			l, err := lab.Up(cmd.Context(), opts)
			if err != nil {
				return err
			}
			fmt.Fprint(cmd.OutOrStdout(), l.Hints())
			return nil
		},
	}
	cmd.Flags().IntVar(&opts.Nodes, "nodes", 3, "number of nodes")
	cmd.Flags().BoolVar(&opts.ControlPlaneOnly, "control-plane-only", false, "only etcd and the API server")
	cmd.Flags().BoolVar(&opts.Containers, "containers", false, "nodes with a kubelet and containerd, so that Pods are containers")
	cmd.Flags().StringSliceVar(&opts.Images, "image", nil, "archive of an image that the nodes import, with --containers")
	cmd.Flags().BoolVar(&opts.Race, "race", false, "build controller and speaker with the race detector")
	return cmd
}

func downCommand(name *string) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Take a cluster down, with everything it started",
		Long: `down takes down the lab that is up, or the one named with --lab. With --all, all
labs that are up, and whatever runs that were killed have left behind; runs that
belong to a living process, such as a test, are left alone.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			take := func(name string) error {
				l, err := lab.Attach(name)
				if err != nil {
					return err
				}
				if err := l.Down(cmd.Context()); err != nil {
					return fmt.Errorf("take lab %s down: %w", l.Name, err)
				}
				fmt.Fprintf(cmd.OutOrStdout(), "lab %s is down\n", l.Name)
				return l.RemoveLogs()
			}
			if !all {
				return take(*name)
			}
			dead, err := lab.Sweep(cmd.Context())
			for _, d := range dead {
				fmt.Fprintf(cmd.OutOrStdout(), "removed what %s left behind\n", d)
			}
			runs, listErr := lab.List()
			errs := []error{err, listErr}
			for _, r := range runs {
				if r.Kept {
					errs = append(errs, take(r.Name))
				}
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "all labs that are up, and leftovers of dead ones")
	return cmd
}

func listCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the labs",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			runs, err := lab.List()
			if err != nil {
				return err
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tNODES\tSTATE\tDIRECTORY")
			for _, r := range runs {
				state := "belongs to a running process"
				switch {
				case r.Kept:
					state = "up"
				case r.Dead:
					state = "dead (lab down --all)"
				}
				fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", r.Name, r.Nodes, state, r.Dir)
			}
			return w.Flush()
		},
	}
}

// kubeletCommand is what the lab itself starts in each run.
func kubeletCommand(attach func() (*lab.Lab, error)) *cobra.Command {
	return &cobra.Command{
		Use:    "kubelet",
		Short:  "Run the Pods of all nodes (the lab starts this itself)",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := attach()
			if err != nil {
				return err
			}
			err = l.Machines.RunKubelet(cmd.Context(), slog.New(slog.NewTextHandler(os.Stderr, nil)))
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
}
