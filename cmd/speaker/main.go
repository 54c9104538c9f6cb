// Belfry-speaker runs on every node and announces the addresses that the node
// owns.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/belfrylb/belfry/internal/bgp/gobgp"
	"github.com/belfrylb/belfry/internal/daemon"
	"github.com/belfrylb/belfry/internal/election"
	"github.com/belfrylb/belfry/internal/election/membership"
	"github.com/belfrylb/belfry/internal/election/watch"
	"github.com/belfrylb/belfry/internal/eligibility"
	"github.com/belfrylb/belfry/internal/gossipkey"
	"github.com/belfrylb/belfry/internal/kube"
	"github.com/belfrylb/belfry/internal/layer2/link"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/objects"
	"github.com/belfrylb/belfry/internal/report"
	"github.com/belfrylb/belfry/internal/speaker"
	"github.com/belfrylb/belfry/internal/watchdog"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == pingCommand {
		if err := pingRule(os.Args[2:]); err != nil {
			fmt.Fprintf(os.Stderr, "belfry-speaker %s: %v\n", pingCommand, err)
			os.Exit(1)
		}
		return
	}
	o, err := parse(os.Args[1:])
	switch {
	case errors.Is(err, errDone):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "belfry-speaker:", err)
		os.Exit(2)
	}
	log := o.Logger(os.Stderr)
	kube.LogTo(log)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	if err := run(ctx, o, log); err != nil {
		log.Error("speaker stopped", "err", err)
		os.Exit(1)
	}
}

// run wires the parts and runs them until ctx is done. The parts that carry out
// what the speaker decides outlive it: it hands over first.
func run(ctx context.Context, o options, log *slog.Logger) error {
	parts, fail := context.WithCancelCause(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer fail(nil)
	start := func(run func(context.Context) error) {
		wg.Go(func() {
			if err := run(parts); err != nil {
				fail(err)
			}
		})
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(parts, cancel)

	config, err := kube.LoadConfig(o.kubeconfig)
	if err != nil {
		return err
	}
	clients, err := kube.NewClients(config, "belfry-speaker/"+daemon.Version())
	if err != nil {
		return err
	}
	cluster := kube.NewCluster(clients.Core, clients.Own, objects.Scope{Class: objects.Class(o.class), DrainTaint: o.drainTaint, Namespace: o.namespace}, log)
	registry := daemon.NewRegistry("speaker", cluster.Age)
	l2, err := link.New(log, registry, link.Options{RefreshInterval: o.refresh, Rate: o.rate})
	if err != nil {
		return err
	}
	health, loop := &health{}, watchdog.New("the announcement loop", watchdog.Patience)
	if err := o.Serve(parts, &wg, daemon.Health{Alive: loop.Check, Ready: health.missing, Notes: health.notes}, kube.MayGet(clients.Core, "/metrics"), registry, log); err != nil {
		return err
	}

	start(func(ctx context.Context) error { cluster.Run(ctx); return nil })
	start(l2.Run)

	status := register{
		kube.NewSpeakerStatus(clients.Own, o.node, cluster.NodeUID, log), o.node,
		report.Settings{Class: o.class, DrainTaint: o.drainTaint, IgnoreExcludeLB: o.ignoreExclude, Namespace: o.namespace},
		cluster, &atomic.Pointer[gossipkey.Use]{},
	}
	status.use(gossipkey.Use{})
	start(func(ctx context.Context) error { status.Run(ctx); return nil })
	keys := kube.NewGossipKeys(clients.Core, o.namespace, o.secret, log)
	ring, use, err := keys.Begin(ctx, status.idle)
	if err != nil {
		return ended(parts, err)
	}
	status.use(use)
	gossip, size, err := o.place(ctx, cluster, log)
	if err != nil {
		return ended(parts, err)
	}
	watcher := watch.New(watch.Config{Port: o.detectionPort, Keys: ring}, log, registry, l2)
	start(func(ctx context.Context) error { watcher.Run(ctx); return nil })
	members, err := membership.New(membership.Config{
		Node: o.node, Bind: gossip, Port: o.gossipPort, Keys: ring, Size: size,
	}, log, registry, speaker.NewConfirmer(l2), watcher)
	if err != nil {
		return err
	}
	start(members.Run)
	start(func(ctx context.Context) error {
		keys.Run(ctx, func(to gossipkey.Ring, use gossipkey.Use) {
			members.SetKeys(to)
			watcher.SetKeys(to)
			status.use(use)
		})
		return nil
	})

	peering := gobgp.New(log)
	start(func(ctx context.Context) error {
		if err := peering.Run(ctx); ctx.Err() == nil {
			return err
		}
		return nil
	})

	s := speaker.New(speaker.Config{
		Node: o.node, Gossip: gossip, Fixed: o.gossip.IsValid(), Announce: eligibility.Options{IgnoreExcludeLB: o.ignoreExclude}, Detection: o.detection,
		ProofInterval: o.proof, BGP: peering, Grace: o.grace, Watchdog: loop, Requests: status.Requests(),
	}, watched{cluster, kube.NewReader(cluster)}, l2, members, log, registry)
	reporter := speaker.NewReporter(s, status, log, registry)
	start(func(ctx context.Context) error { reporter.Run(ctx); return nil })
	routers := &introduction{}
	health.notice(func() string { return election.Describe(members.Blocked()) })
	health.watch(func() error {
		switch {
		case !joined(members.Members(), o.node):
			return errUnlearned
		case !routers.ended(s.Routing(), s.Sessions(), time.Now()):
			return errUntold
		}
		return nil
	})
	log.Info("speaker started", "node", o.node, "address", gossip, "version", daemon.Version())
	s.Run(ctx)
	return ended(parts, nil)
}

// watched is the cluster as the speaker sees it.
type watched struct {
	*kube.Cluster
	reader *kube.Reader
}

// Snapshot returns the whole, and whether it has changed.
func (w watched) Snapshot() (lb.Snapshot, bool) { return w.reader.Snapshot() }

// ended returns why a part failed, or else err, unless that only says that the
// process was told to stop.
func ended(parts context.Context, err error) error {
	if cause := context.Cause(parts); cause != nil {
		return cause
	}
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// place returns where to gossip, and how many speakers to expect. Unless the
// address is given it is the node's first InternalIP, which is waited for.
func (o options) place(ctx context.Context, cluster *kube.Cluster, log *slog.Logger) (gossip netip.Addr, size int, err error) {
	select {
	case <-cluster.Synced():
	case <-ctx.Done():
		return gossip, 0, ctx.Err()
	}
	for said := false; ; said = true {
		nodes := cluster.Snapshot().Nodes
		if gossip = o.gossip; !gossip.IsValid() {
			gossip = firstAddress(nodes, o.node)
		}
		if gossip.IsValid() {
			return gossip, len(nodes), nil
		}
		if !said {
			log.Info("waiting for the Node to have an InternalIP", "node", o.node)
		}
		select {
		case <-cluster.Changed():
		case <-ctx.Done():
			return gossip, 0, ctx.Err()
		}
	}
}

func firstAddress(nodes []lb.Node, name string) netip.Addr {
	for _, n := range nodes {
		if n.Name == name && len(n.Addresses) > 0 {
			return n.Addresses[0]
		}
	}
	return netip.Addr{}
}
