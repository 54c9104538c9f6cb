package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/belfrylb/belfry/hack/lab"
)

func observeCommands(attach attachFunc) []*cobra.Command {
	return []*cobra.Command{watchCommand(attach), whoCommand(attach), loadCommand(attach), {
		Use:   "resolve ADDRESS",
		Short: "Ask once who has an address, by arping or ndisc6",
		Args:  cobra.ExactArgs(1),
		RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
			address, err := netip.ParseAddr(args[0])
			if err != nil {
				return err
			}
			macs, err := l.Observers.Resolve(ctx, address)
			for _, mac := range macs {
				fmt.Printf("%s is at %s (%s)\n", address, mac, l.Network.HostOf(mac))
			}
			if err == nil && len(macs) == 0 {
				fmt.Printf("nobody answers for %s\n", address)
			}
			return err
		}),
	}}
}

// until limits what runs until Ctrl-C to a time, if there is one.
func until(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	if limit > 0 {
		return context.WithTimeout(ctx, limit)
	}
	return context.WithCancel(ctx)
}

func watchCommand(attach attachFunc) *cobra.Command {
	var host string
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "watch [ADDRESS]",
		Short: "Print each ARP and NDP frame that claims an address",
		Example: `  lab watch 198.51.100.200
  lab watch --on switch             # every frame of the segment`,
		Args: cobra.MaximumNArgs(1),
		RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
			var address netip.Addr
			if len(args) == 1 {
				var err error
				if address, err = netip.ParseAddr(args[0]); err != nil {
					return err
				}
			}
			w, err := l.Observers.Watch(host)
			if err != nil {
				return err
			}
			defer w.Close()
			ctx, cancel := until(ctx, limit)
			defer cancel()
			for printed := 0; ; {
				news := w.News()
				claims := w.Claims(address)
				for _, c := range claims[printed:] {
					fmt.Println(c)
				}
				printed = len(claims)
				select {
				case <-news:
				case <-ctx.Done():
					return nil
				}
			}
		}),
	}
	cmd.Flags().StringVar(&host, "on", lab.Client, "the host to watch on")
	cmd.Flags().DurationVar(&limit, "for", 0, "stop after this long (0: Ctrl-C)")
	return cmd
}

func whoCommand(attach attachFunc) *cobra.Command {
	var interval, limit time.Duration
	cmd := &cobra.Command{
		Use:   "who ADDRESS",
		Short: "Ask every few milliseconds who has an address, and print each change",
		Args:  cobra.ExactArgs(1),
		RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
			address, err := netip.ParseAddr(args[0])
			if err != nil {
				return err
			}
			p, err := l.Observers.Probe(address, interval)
			if err != nil {
				return err
			}
			ctx, cancel := until(ctx, limit)
			defer cancel()
			var last []string
			for first := true; ctx.Err() == nil; {
				if spells := p.Report().Timeline(); len(spells) > 0 {
					if s := spells[len(spells)-1]; first || !slices.Equal(s.Hosts, last) {
						first, last = false, s.Hosts
						fmt.Printf("%s %v\n", s.From.Format("15:04:05.000"), s.Hosts)
					}
				}
				select {
				case <-ctx.Done():
				case <-time.After(interval):
				}
			}
			r := p.Stop()
			gap, at := r.LongestGap()
			fmt.Printf("%s\n%d of %d questions unanswered, longest silence %s (from %s)\n", r, len(r.Unanswered()), len(r.Questions), gap.Round(time.Millisecond), at.Format("15:04:05.000"))
			return r.Err
		}),
	}
	cmd.Flags().DurationVar(&interval, "interval", 5*time.Millisecond, "time between questions")
	cmd.Flags().DurationVar(&limit, "for", 0, "stop after this long (0: Ctrl-C)")
	return cmd
}

func loadCommand(attach attachFunc) *cobra.Command {
	var interval, limit time.Duration
	var port int
	cmd := &cobra.Command{
		Use:   "load ADDRESS",
		Short: "Make HTTP requests at a steady pace and measure every gap",
		Args:  cobra.ExactArgs(1),
		RunE: onLab(attach, func(ctx context.Context, l *lab.Lab, args []string) error {
			address, err := netip.ParseAddr(args[0])
			if err != nil {
				return err
			}
			load := l.Observers.Load(address, port, interval)
			ctx, cancel := until(ctx, limit)
			defer cancel()
			<-ctx.Done()
			r := load.Stop()
			for _, a := range r.Failed {
				fmt.Printf("%s failed: %v\n", a.Begun.Format("15:04:05.000"), a.Err)
			}
			fmt.Println(r)
			return nil
		}),
	}
	cmd.Flags().IntVar(&port, "port", 80, "TCP port")
	cmd.Flags().DurationVar(&interval, "interval", 20*time.Millisecond, "time between requests")
	cmd.Flags().DurationVar(&limit, "for", 10*time.Second, "stop after this long (0: Ctrl-C)")
	return cmd
}
