package main

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// A fault is something that befalls the node that answers.
type fault struct {
	do, undo func(ctx context.Context, c *cluster, node string) error
}

var (
	linkCut = fault{
		do:   func(ctx context.Context, c *cluster, node string) error { return c.Network.CutLink(ctx, node) },
		undo: func(ctx context.Context, c *cluster, node string) error { return c.Network.HealLink(ctx, node) },
	}
	killed = fault{
		do: func(ctx context.Context, c *cluster, node string) error {
			p, err := c.Processes.Process(lab.SpeakerOn(node))
			if err != nil {
				return err
			}
			return p.Kill(ctx)
		},
		undo: func(ctx context.Context, c *cluster, node string) error {
			return c.Processes.Restart(ctx, lab.SpeakerOn(node))
		},
	}
	terminated = fault{
		do: func(ctx context.Context, c *cluster, node string) error {
			p, err := c.Processes.Process(lab.SpeakerOn(node))
			if err != nil {
				return err
			}
			return p.Terminate(ctx)
		},
		undo: func(ctx context.Context, c *cluster, node string) error {
			return c.Processes.Restart(ctx, lab.SpeakerOn(node))
		},
	}
)

var (
	poweredOff = fault{
		do:   func(ctx context.Context, c *cluster, node string) error { return c.Machines.PowerOff(ctx, node) },
		undo: func(ctx context.Context, c *cluster, node string) error { return c.Machines.PowerOn(ctx, node) },
	}
	takenDown = fault{
		do:   func(ctx context.Context, c *cluster, node string) error { return c.Network.InterfaceDown(ctx, node) },
		undo: func(ctx context.Context, c *cluster, node string) error { return c.Network.InterfaceUp(ctx, node) },
	}
)

// interval is the time between two questions of the client.
const interval = 5 * time.Millisecond

// A trial is what the client saw of one fault.
type trial struct {
	// silence is the longest time without an answer.
	silence    time.Duration
	unanswered int
}

// trials makes a fault again and again, for an IPv4 and an IPv6 address in
// turn.
func (b *bench) trialsOf(ctx context.Context, f fault) ([]trial, error) {
	c, err := b.well(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.serve(ctx); err != nil {
		return nil, err
	}
	var all []trial
	for i := range b.trials {
		t, err := c.try(ctx, f, i%2)
		if err != nil {
			return nil, fmt.Errorf("trial %d: %w", i+1, err)
		}
		b.say("  trial %d, %s: %s without an answer, %d questions unanswered", i+1, c.addresses[i%2], duration(t.silence), t.unanswered)
		all = append(all, t)
	}
	return all, nil
}

// try makes a fault once, for the nth address, and mends it.
func (c *cluster) try(ctx context.Context, f fault, n int) (t trial, err error) {
	if err := c.settle(ctx); err != nil {
		return t, err
	}
	return c.tryAddress(ctx, f, c.addresses[n])
}

// tryAddress does so for an address.
func (c *cluster) tryAddress(ctx context.Context, f fault, a netip.Addr) (t trial, err error) {
	p, err := c.Observers.Probe(a, interval)
	if err != nil {
		return t, err
	}
	defer p.Stop()
	owner, err := answering(ctx, p, func(string) bool { return true })
	if err != nil {
		return t, err
	}
	if err := more(ctx, p, 100); err != nil {
		return t, err
	}
	begun := time.Now()
	if err := f.do(ctx, c, owner); err != nil {
		return t, err
	}
	if _, err := answering(ctx, p, func(host string) bool { return host != owner }); err != nil {
		return t, err
	}
	if err := more(ctx, p, 200); err != nil {
		return t, err
	}
	r := p.Stop().Since(begun.Add(-100 * time.Millisecond))
	t.silence, _ = r.LongestGap()
	t.unanswered = len(r.Unanswered())
	return t, f.undo(ctx, c, owner)
}

// answering waits until a host that is accepted answers.
func answering(ctx context.Context, p *lab.Prober, accept func(host string) bool) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	a, err := p.AwaitAnswer(ctx, func(a lab.Answer) bool { return accept(a.Host) })
	return a.Host, err
}

// more waits until n more questions have been asked.
func more(ctx context.Context, p *lab.Prober, n int) error {
	begun := len(p.Report().Questions)
	return eventually(ctx, 30*time.Second, "the client goes on asking", func() error {
		if asked := len(p.Report().Questions) - begun; asked < n {
			return fmt.Errorf("%d questions of %d", asked, n)
		}
		return nil
	})
}

func failLink(ctx context.Context, b *bench) error { return b.silences(ctx, "failover/link", linkCut) }

func failKill(ctx context.Context, b *bench) error { return b.silences(ctx, "failover/kill", killed) }

func failPower(ctx context.Context, b *bench) error {
	return b.silences(ctx, "failover/power", poweredOff)
}

func failDown(ctx context.Context, b *bench) error {
	return b.silences(ctx, "failover/down", takenDown)
}

func (b *bench) silences(ctx context.Context, name string, f fault) error {
	trials, err := b.trialsOf(ctx, f)
	if err != nil {
		return err
	}
	var all []time.Duration
	for _, t := range trials {
		all = append(all, t.silence)
	}
	b.found(name, slices.Max(all).Seconds(), "worst of %d; median %s", len(all), duration(median(all)))
	return nil
}

func failTerm(ctx context.Context, b *bench) error {
	trials, err := b.trialsOf(ctx, terminated)
	if err != nil {
		return err
	}
	unanswered := 0
	var all []time.Duration
	for _, t := range trials {
		unanswered += t.unanswered
		all = append(all, t.silence)
	}
	b.found("failover/term", float64(unanswered), "of %d; silence worst %s, median %s", len(all), duration(slices.Max(all)), duration(median(all)))
	return nil
}

// failHeal cuts the owner off from the other nodes, all of which the client
// still reaches, until two answer; then it heals the cluster.
func failHeal(ctx context.Context, b *bench) error {
	c, err := b.well(ctx)
	if err != nil {
		return err
	}
	if err := c.serve(ctx); err != nil {
		return err
	}
	var all []time.Duration
	for i := range b.trials {
		d, err := c.healAfterPartition(ctx, i%2)
		if err != nil {
			return fmt.Errorf("trial %d: %w", i+1, err)
		}
		b.say("  trial %d, %s: two answer for %s after it has healed", i+1, c.addresses[i%2], duration(d))
		all = append(all, d)
	}
	b.found("failover/heal", slices.Max(all).Seconds(), "worst of %d; median %s", len(all), duration(median(all)))
	return nil
}

func (c *cluster) healAfterPartition(ctx context.Context, n int) (time.Duration, error) {
	if err := c.settle(ctx); err != nil {
		return 0, err
	}
	p, err := c.Observers.Probe(c.addresses[n], interval)
	if err != nil {
		return 0, err
	}
	defer p.Stop()
	owner, err := answering(ctx, p, func(string) bool { return true })
	if err != nil {
		return 0, err
	}
	others := slices.DeleteFunc(c.Network.Nodes(), func(n string) bool { return n == owner })
	if err := c.Network.Partition(ctx, []string{owner}, others); err != nil {
		return 0, err
	}
	defer func() { _ = c.Network.HealNetwork(context.WithoutCancel(ctx)) }()
	if _, err := answering(ctx, p, func(host string) bool { return host != owner }); err != nil {
		return 0, err
	}
	if err := more(ctx, p, 100); err != nil {
		return 0, err
	}
	if len(p.Report().Contested()) == 0 {
		return 0, fmt.Errorf("%s stopped answering although the client reaches it:\n%s", owner, p.Report())
	}
	healed := time.Now()
	if err := c.Network.HealNetwork(ctx); err != nil {
		return 0, err
	}
	const quiet = 400 // questions in a row that one host answers
	err = eventually(ctx, 2*time.Minute, "one host answers alone", func() error {
		r := p.Report().Since(healed)
		if n := len(r.Questions); n < quiet || len((lab.Report{Questions: r.Questions[n-quiet:]}).Contested()) > 0 {
			return fmt.Errorf("of %d questions %d are contested", n, len(r.Contested()))
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	contested := p.Report().Since(healed).Contested()
	if len(contested) == 0 {
		return 0, nil
	}
	last := contested[len(contested)-1]
	return last.At.Sub(healed), nil
}
