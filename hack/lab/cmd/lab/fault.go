package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/belfrylb/belfry/hack/lab"
)

func faultCommands(attach attachFunc) []*cobra.Command {
	// each does the same to every host or process that is named.
	each := func(use, short string, of func(*lab.Lab) []string, do func(context.Context, *lab.Lab, string) error) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short,
			Args:              cobra.MinimumNArgs(1),
			ValidArgsFunction: names(attach, of),
			RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
				for _, arg := range args {
					if err := do(ctx, l, arg); err != nil {
						return err
					}
				}
				return nil
			}),
		}
	}
	process := func(do func(context.Context, *lab.Process) error) func(context.Context, *lab.Lab, string) error {
		return func(ctx context.Context, l *lab.Lab, name string) error {
			p, err := l.Processes.Process(name)
			if err != nil {
				return err
			}
			return do(ctx, p)
		}
	}
	plain := func(use, short string, do func(context.Context, *lab.Lab) error) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Args: cobra.NoArgs,
			RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, _ []string) error { return do(ctx, l) }),
		}
	}
	return []*cobra.Command{
		each("cut HOST...", "Pull a host's cable at the switch", hostNames, func(ctx context.Context, l *lab.Lab, h string) error { return l.Network.CutLink(ctx, h) }),
		each("link HOST...", "Put the cable back", hostNames, func(ctx context.Context, l *lab.Lab, h string) error { return l.Network.HealLink(ctx, h) }),
		each("poweroff NODE...", "Cut a node's link and kill all it runs", nodeNames, func(ctx context.Context, l *lab.Lab, h string) error { return l.Machines.PowerOff(ctx, h) }),
		each("poweron NODE...", "Bring a node back, with what it ran", nodeNames, func(ctx context.Context, l *lab.Lab, h string) error { return l.Machines.PowerOn(ctx, h) }),
		partitionCommand(attach),
		loseCommand(attach),
		plain("heal", "End every fault of the network, let stopped processes go on", func(ctx context.Context, l *lab.Lab) error { return l.Heal(ctx) }),
		each("kill PROCESS...", "SIGKILL: a crash", processNames, process(func(ctx context.Context, p *lab.Process) error { return p.Kill(ctx) })),
		each("term PROCESS...", "SIGTERM: an orderly stop", processNames, process(func(_ context.Context, p *lab.Process) error { return p.Signal(syscall.SIGTERM) })),
		each("stop PROCESS...", "SIGSTOP: it hangs", processNames, process(func(_ context.Context, p *lab.Process) error { return p.Pause() })),
		each("cont PROCESS...", "SIGCONT: it goes on", processNames, process(func(_ context.Context, p *lab.Process) error { return p.Resume() })),
		each("restart PROCESS...", "Start it again, after SIGTERM if it runs", processNames, func(ctx context.Context, l *lab.Lab, p string) error { return l.Processes.Restart(ctx, p) }),
		plain("pause-api", "Stop the API server from answering", func(_ context.Context, l *lab.Lab) error { return l.Cluster.PauseAPI() }),
		plain("resume-api", "Let the API server go on", func(_ context.Context, l *lab.Lab) error { return l.Cluster.ResumeAPI() }),
		flapCommand(attach),
		{
			Use: "mac HOST MAC", Short: "Give a host's interface another hardware address",
			Example: "  lab mac node1 02:be:1f:00:01:01",
			Args:    cobra.ExactArgs(2),
			RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
				mac, err := net.ParseMAC(args[1])
				if err != nil {
					return err
				}
				return l.Network.ChangeMAC(ctx, args[0], mac)
			}),
		},
	}
}

func hostNames(l *lab.Lab) []string { return l.Network.Hosts() }

func nodeNames(l *lab.Lab) []string { return l.Network.Nodes() }

func partitionCommand(attach attachFunc) *cobra.Command {
	return &cobra.Command{
		Use:     "partition GROUP GROUP...",
		Short:   "Block all traffic between groups of hosts",
		Example: "  lab partition node1,client node2,node3,cp",
		Args:    cobra.MinimumNArgs(2),
		RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
			var groups [][]string
			for _, a := range args {
				groups = append(groups, strings.Split(a, ","))
			}
			return l.Network.Partition(ctx, groups...)
		}),
	}
}

func loseCommand(attach attachFunc) *cobra.Command {
	return &cobra.Command{
		Use:   "lose FROM TO [SHARE]",
		Short: "Lose frames from some hosts to others, in that direction",
		Example: `  lab lose node1 node2,node3        # all of them
  lab lose node1 node2 5%`,
		Args: cobra.RangeArgs(2, 3),
		RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
			share := 1.0
			if len(args) == 3 {
				percent, err := strconv.ParseFloat(strings.TrimSuffix(args[2], "%"), 64)
				if err != nil {
					return fmt.Errorf("share %q: want a percentage such as 5%%", args[2])
				}
				share = percent / 100
			}
			return l.Network.Lose(ctx, strings.Split(args[0], ","), strings.Split(args[1], ","), share)
		}),
	}
}

func flapCommand(attach attachFunc) *cobra.Command {
	var down time.Duration
	cmd := &cobra.Command{
		Use:   "flap HOST",
		Short: "Take a host's interface down for a while",
		Args:  cobra.ExactArgs(1),
		RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
			return l.Network.Flap(ctx, args[0], down)
		}),
	}
	cmd.Flags().DurationVar(&down, "down", time.Second, "for how long")
	return cmd
}
