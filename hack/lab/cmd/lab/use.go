package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/belfrylb/belfry/hack/lab"
)

type attachFunc = func() (*lab.Lab, error)

// onLab makes a command's body of a function on the lab.
func onLab(attach attachFunc, do func(ctx context.Context, l *lab.Lab, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		l, err := attach()
		if err != nil {
			return err
		}
		return do(cmd.Context(), l, args)
	}
}

// names completes a command's arguments.
func names(attach attachFunc, of func(*lab.Lab) []string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		l, err := attach()
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return of(l), cobra.ShellCompDirectiveNoFileComp
	}
}

func processNames(l *lab.Lab) []string {
	var all []string
	for _, p := range l.Processes.All() {
		all = append(all, p.Name)
	}
	return all
}

// An exitCode is that of a program that ran in our stead.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

// through runs a program in our stead.
func through(c *exec.Cmd) error {
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		return exitCode(exit.ExitCode())
	}
	return err
}

func useCommands(attach attachFunc) []*cobra.Command {
	cmds := []*cobra.Command{
		{
			Use:     "kubectl ...",
			Short:   "Run kubectl as the cluster's admin",
			Example: "  lab kubectl get services -A",
			RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
				return through(l.Cluster.KubectlCommand(ctx, args...))
			}),
		},
		{
			Use:   "exec HOST COMMAND...",
			Short: "Run a command on a host",
			Example: `  lab exec client curl -s http://198.51.100.200/
  lab exec node1 tcpdump -ni eth0 arp
  lab exec node1 bash`,
			Args:              cobra.MinimumNArgs(2),
			ValidArgsFunction: names(attach, func(l *lab.Lab) []string { return l.Network.Hosts() }),
			RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
				return through(l.Network.Command(ctx, args[0], args[1:]...))
			}),
		},
		{
			Use:   "install",
			Short: "Install the CRDs and the RBAC of manifests/",
			Args:  cobra.NoArgs,
			RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, _ []string) error {
				return l.Product.Install(ctx)
			}),
		},
		{
			Use:   "start controller/N|speaker/NODE [-- FLAGS...]",
			Short: "Build this tree's controller or speaker and start it",
			Example: `  lab start controller/0
  lab start speaker/node1 -- --log-level=debug`,
			Args: cobra.MinimumNArgs(1),
			RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
				kind, which, _ := strings.Cut(args[0], "/")
				flags := args[1:]
				if len(flags) > 0 && flags[0] == "--" {
					flags = flags[1:]
				}
				switch kind {
				case "controller":
					n, err := strconv.Atoi(which)
					if err != nil {
						return fmt.Errorf("%q: a replica is named controller/ and a number", args[0])
					}
					return started(l.Product.StartController(ctx, n, flags...))
				case "speaker":
					return started(l.Product.StartSpeaker(ctx, which, flags...))
				}
				return fmt.Errorf("%q is neither controller/N nor speaker/NODE", args[0])
			}),
		},
		{
			Use:   "ps",
			Short: "List the processes and their logs",
			Args:  cobra.NoArgs,
			RunE: onLab(attach, func(_ context.Context, l *lab.Lab, _ []string) error {
				w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
				fmt.Fprintln(w, "PROCESS\tHOST\tPID\tRUNS\tLOG")
				for _, p := range l.Processes.All() {
					fmt.Fprintf(w, "%s\t%s\t%d\t%t\t%s\n", p.Name, p.Host, p.PID(), p.Alive(), p.Log)
				}
				return w.Flush()
			}),
		},
		{
			Use:   "hints",
			Short: "Show how to use the lab by hand",
			Args:  cobra.NoArgs,
			RunE: onLab(attach, func(_ context.Context, l *lab.Lab, _ []string) error {
				fmt.Print(l.Hints())
				return nil
			}),
		},
	}
	for _, cmd := range cmds {
		// What follows the first word belongs to kubectl, or to the host's command.
		cmd.Flags().SetInterspersed(false)
	}
	return cmds
}

// started tells of a process that was started.
func started(p *lab.Process, err error) error {
	if err == nil {
		fmt.Printf("%s runs as %d, its log is %s\n", p.Name, p.PID(), p.Log)
	}
	return err
}
