package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// budget is how long an address may go unanswered when its node is lost, with
// default settings, on a machine with two cores that runs all tests at once.
// (docs/performance.md has the figures of a machine at rest.)
const budget = 2 * time.Second

func TestAnotherNodeAnswersWhenTheOwnerIsLost(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "failover")
	for _, fault := range []struct {
		name string
		do   func(ctx context.Context, node string) error
		undo func(ctx context.Context, node string) error
		// seamless means that no question may go unanswered.
		seamless bool
	}{
		{
			name: "link cut",
			do:   l.Network.CutLink,
			undo: l.Network.HealLink,
		},
		{
			name: "speaker killed",
			do:   func(ctx context.Context, node string) error { return kill(ctx, l, node) },
			undo: func(ctx context.Context, node string) error { return l.Processes.Restart(ctx, lab.SpeakerOn(node)) },
		},
		{
			name: "speaker terminated",
			do: func(ctx context.Context, node string) error {
				p, err := l.Processes.Process(lab.SpeakerOn(node))
				if err != nil {
					return err
				}
				return p.Terminate(ctx)
			},
			undo:     func(ctx context.Context, node string) error { return l.Processes.Restart(ctx, lab.SpeakerOn(node)) },
			seamless: true,
		},
		{
			name:     "drained by annotation",
			do:       func(ctx context.Context, node string) error { return drain(ctx, l, node) },
			undo:     func(ctx context.Context, node string) error { return undrain(ctx, l, node) },
			seamless: true,
		},
		{
			name: "power off",
			do:   l.Machines.PowerOff,
			undo: l.Machines.PowerOn,
		},
	} {
		for _, address := range addresses {
			t.Run(fault.name+" "+address.String(), func(t *testing.T) {
				settle(t, l)
				p := probe(t, l, address)
				owner := answers(t, p, 10*time.Second, anybody)
				goesOn(t, p, 50)
				t.Cleanup(func() {
					if err := fault.undo(context.Background(), owner); err != nil {
						t.Error(err)
					}
				})
				begun := time.Now()
				must(t, fault.do(t.Context(), owner))
				heir := answers(t, p, 10*time.Second, not(owner))
				goesOn(t, p, 100)
				r := p.Stop()
				gap, _ := r.Since(begun.Add(-100 * time.Millisecond)).LongestGap()
				unanswered := len(r.Since(begun).Unanswered())
				t.Logf("%s: from %s to %s, %d ms without an answer, %d of %d questions unanswered",
					fault.name, owner, heir, gap.Milliseconds(), unanswered, len(r.Since(begun).Questions))
				if gap > budget {
					t.Errorf("%s without an answer, the budget is %s:\n%s", gap, budget, r)
				}
				if fault.seamless && unanswered > 0 {
					t.Errorf("%d questions went unanswered in a planned move:\n%s", unanswered, r)
				}
				if hosts := r.Since(time.Now().Add(-500 * time.Millisecond)).Hosts(); !slices.Equal(hosts, []string{heir}) {
					t.Errorf("at the end %v answer, want %s alone:\n%s", hosts, heir, r)
				}
			})
		}
	}
}

// kill ends a node's speaker as a crash would.
func kill(ctx context.Context, l *lab.Lab, node string) error {
	p, err := l.Processes.Process(lab.SpeakerOn(node))
	if err != nil {
		return err
	}
	return p.Kill(ctx)
}

func TestWithoutTheAPIServerAnsweringGoesOnAndFailoverWorks(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "orphaned")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	for _, p := range probes {
		goesOn(t, p, 50)
	}
	must(t, l.Cluster.PauseAPI())
	paused := time.Now()
	t.Cleanup(func() { must(t, l.Cluster.ResumeAPI()) })

	const outage = 30 * time.Second
	// Half of it undisturbed: longer than any lease or watch that could be
	// waited for, and every question is answered.
	time.Sleep(outage / 2) // the outage itself, not a wait for something
	for _, p := range probes {
		if none := p.Report().Since(paused).Unanswered(); len(none) > 0 {
			t.Errorf("%d questions went unanswered without the API server:\n%s", len(none), p.Report())
		}
	}
	owner := answers(t, probes[0], 10*time.Second, anybody)
	begun := time.Now()
	must(t, l.Network.CutLink(t.Context(), owner))
	t.Cleanup(func() { must(t, l.Network.HealLink(context.Background(), owner)) })
	for i, p := range probes {
		heir := answers(t, p, 10*time.Second, not(owner))
		goesOn(t, p, 50)
		gap, _ := p.Report().Since(begun.Add(-100 * time.Millisecond)).LongestGap()
		t.Logf("the link of %s cut without the API server: %s answers for %s, after at most %d ms without an answer", owner, heir, addresses[i], gap.Milliseconds())
		if gap > budget {
			t.Errorf("%s without an answer, the budget is %s:\n%s", gap, budget, p.Report())
		}
	}
	time.Sleep(time.Until(paused.Add(outage)))
	for _, address := range addresses {
		if hosts, err := l.Observers.Resolvers(t.Context(), address); err != nil || len(hosts) != 1 {
			t.Errorf("at the end of the outage %v answer for %s: %v", hosts, address, err)
		}
	}
	must(t, l.Cluster.ResumeAPI())
	must(t, l.Network.HealLink(t.Context(), owner))
	for _, p := range controllers {
		// A controller that lost its lease may end, as a Pod would be restarted.
		revive(t, l, p)
	}
	for _, node := range l.Network.Nodes() {
		if p, err := l.Processes.Process(lab.SpeakerOn(node)); err != nil || !p.Alive() {
			t.Errorf("the speaker on %s did not live through the outage (%v)", node, err)
		}
	}
	after := serve(t, l, "afterwards")
	for _, address := range after {
		eventually(t, 20*time.Second, "a Service created afterwards answers", func() error {
			_, err := l.Observers.Curl(t.Context(), address, 80)
			return err
		})
	}
}

func TestWhileEtcdHangsAndNoControllerRunsNothingMovesAndFailoverWorks(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "forgotten")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	for _, name := range controllers {
		p, err := l.Processes.Process(name)
		must(t, err)
		must(t, p.Terminate(t.Context()))
		t.Cleanup(func() {
			if !p.Alive() {
				must(t, l.Processes.Restart(context.Background(), name))
			}
		})
	}
	must(t, l.Cluster.PauseEtcd())
	t.Cleanup(func() { must(t, l.Cluster.ResumeEtcd()) })
	begun := time.Now()
	for i, p := range probes {
		goesOn(t, p, 300)
		if hosts := p.Report().Since(begun).Hosts(); len(hosts) != 1 {
			t.Errorf("%v answered for %s though nothing had failed:\n%s", hosts, addresses[i], p.Report())
		}
	}

	// What the first heir has to write hangs when the second has to take over.
	first := answers(t, probes[0], 10*time.Second, anybody)
	must(t, kill(t.Context(), l, first))
	t.Cleanup(func() { must(t, l.Processes.Restart(context.Background(), lab.SpeakerOn(first))) })
	second := answers(t, probes[0], 10*time.Second, not(first))
	answers(t, probes[1], 10*time.Second, not(first))
	must(t, l.Network.CutLink(t.Context(), second))
	t.Cleanup(func() { must(t, l.Network.HealLink(context.Background(), second)) })
	var last string
	for i, p := range probes {
		last = answers(t, p, 10*time.Second, func(h string) bool { return h != first && h != second })
		goesOn(t, p, 50)
		gap, _ := p.Report().Since(begun).LongestGap()
		t.Logf("%s and %s lost while etcd hung: %s answers for %s, after at most %d ms without an answer", first, second, last, addresses[i], gap.Milliseconds())
		if gap > budget {
			t.Errorf("%s without an answer, the budget is %s:\n%s", gap, budget, p.Report())
		}
	}
	must(t, l.Cluster.ResumeEtcd())
	for _, name := range controllers {
		revive(t, l, name)
	}
	leader(t, l)
	for _, address := range addresses {
		recorded(t, l, "forgotten", address, last)
	}
}

func TestAPartitionEndsWithOneOwner(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "parted")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	// The client reaches all, so that two answer for each address.
	alone := answers(t, probes[0], 10*time.Second, anybody)
	must(t, l.Network.Partition(t.Context(), []string{alone}, others(l, alone)))
	t.Cleanup(func() { must(t, l.Network.HealNetwork(context.Background())) })
	for i, p := range probes {
		eventually(t, 20*time.Second, "both sides answer for "+addresses[i].String(), func() error {
			if len(p.Report().Contested()) == 0 {
				return fmt.Errorf("%v answer", p.Report().Hosts())
			}
			return nil
		})
		goesOn(t, p, 100)
	}
	healed := time.Now()
	must(t, l.Network.HealNetwork(t.Context()))
	for i, p := range probes {
		const quiet = 100 // questions in a row that one host answers
		eventually(t, 30*time.Second, "one host answers for "+addresses[i].String(), func() error {
			r := p.Report().Since(healed)
			if n := len(r.Questions); n < quiet || len(lab.Report{Questions: r.Questions[n-quiet:]}.Hosts()) != 1 {
				return fmt.Errorf("of %d questions %d had two answers", n, len(r.Contested()))
			}
			return nil
		})
		r := p.Report().Since(healed)
		both := time.Duration(0)
		for _, q := range r.Contested() {
			both = q.At.Sub(healed)
		}
		gap, _ := r.LongestGap()
		t.Logf("%s: two answered for %d ms after the partition had ended, nobody for %d ms, %d of %d questions unanswered",
			addresses[i], both.Milliseconds(), gap.Milliseconds(), len(r.Unanswered()), len(r.Questions))
		if both > budget || gap > budget {
			t.Errorf("two answered for %s for %s, or nobody for %s; the budget is %s:\n%s", addresses[i], both, gap, budget, r)
		}
	}
}

// The nodes gossip on one interface and announce on another.
func TestAnInterfaceThatDiesLosesItsAddressesThoughGossipGoesOn(t *testing.T) {
	l := cluster(t)
	const nic = "lan1"
	ports := map[string]string{}
	for _, node := range l.Network.Nodes() {
		port, err := l.Network.Cable(t.Context(), node, nic)
		must(t, err)
		t.Cleanup(func() { must(t, l.Network.Uncable(context.Background(), node, nic)) })
		ports[node] = port
	}
	on := func(interfaces string) {
		_, err := l.Cluster.Kubectl(context.Background(), "patch", "l2advertisement", "edge", "--type=merge", `--patch={"spec":{"interfaces":`+interfaces+`}}`)
		must(t, err)
	}
	on(`["` + nic + `"]`)
	t.Cleanup(func() { on("null") })
	for _, address := range serve(t, l, "apart") {
		p := probe(t, l, address)
		owner := answers(t, p, 20*time.Second, anybody)
		goesOn(t, p, 50)
		before := doubts(t, l)
		begun := time.Now()
		must(t, l.Network.CutLink(t.Context(), ports[owner]))
		heir := answers(t, p, 10*time.Second, not(owner))
		goesOn(t, p, 50)
		gap, _ := p.Report().Since(begun.Add(-100 * time.Millisecond)).LongestGap()
		t.Logf("%s: from %s to %s, %d ms without an answer", address, owner, heir, gap.Milliseconds())
		if gap > budget {
			t.Errorf("%s without an answer, the budget is %s:\n%s", gap, budget, p.Report())
		}
		if after := doubts(t, l); after != before {
			t.Errorf("gossip lost somebody %v times meanwhile: it was no interface alone that died", after-before)
		}
		must(t, l.Network.HealLink(t.Context(), ports[owner]))
		p.Stop()
	}
}

// doubts returns how often speakers have lost one another by gossip.
func doubts(t *testing.T, l *lab.Lab) (n float64) {
	t.Helper()
	for _, node := range l.Network.Nodes() {
		metrics, err := l.Observers.Metrics(t.Context(), node, speakerMetrics)
		must(t, err)
		for series, value := range metrics {
			if strings.HasPrefix(series, "belfry_gossip_suspicions_total{") {
				n += value
			}
		}
	}
	return n
}

// revive starts a process again if it has ended.
func revive(t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	p, err := l.Processes.Process(name)
	must(t, err)
	if p.Alive() {
		return
	}
	t.Logf("%s ended:\n%s", name, p.Tail(5))
	if err := l.Processes.Restart(t.Context(), name); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}
