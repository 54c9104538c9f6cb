package e2e

import (
	"context"
	"errors"
	"os"
	"slices"
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
			do:   l.CutLink,
			undo: l.HealLink,
		},
		{
			name: "speaker killed",
			do:   func(ctx context.Context, node string) error { return kill(ctx, l, node) },
			undo: func(ctx context.Context, node string) error { return l.Restart(ctx, lab.SpeakerOn(node)) },
		},
		{
			name: "speaker terminated",
			do: func(ctx context.Context, node string) error {
				p, err := l.Process(lab.SpeakerOn(node))
				if err != nil {
					return err
				}
				return p.Terminate(ctx)
			},
			undo:     func(ctx context.Context, node string) error { return l.Restart(ctx, lab.SpeakerOn(node)) },
			seamless: true,
		},
		{
			name: "power off",
			do:   l.PowerOff,
			undo: l.PowerOn,
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
				t.Logf("%s: from %s to %s, %d ms without an answer, %d of %d questions unanswered",
					fault.name, owner, heir, gap.Milliseconds(), len(r.Unanswered()), len(r.Questions))
				if gap > budget {
					t.Errorf("%s without an answer, the budget is %s:\n%s", gap, budget, r)
				}
				if n := len(r.Unanswered()); fault.seamless && n > 0 {
					t.Errorf("%d questions went unanswered in a planned move:\n%s", n, r)
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
	p, err := l.Process(lab.SpeakerOn(node))
	if err != nil {
		return err
	}
	return p.Kill(ctx)
}

func TestWithoutTheAPIServerAnsweringGoesOnAndFailoverWorks(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "orphaned")
	settle(t, l)
	var probes []*lab.Prober
	for _, address := range addresses {
		p := probe(t, l, address)
		answers(t, p, 10*time.Second, anybody)
		probes = append(probes, p)
	}
	for _, p := range probes {
		goesOn(t, p, 50)
	}
	must(t, l.PauseAPI())
	paused := time.Now()
	t.Cleanup(func() { must(t, l.ResumeAPI()) })

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
	must(t, l.CutLink(t.Context(), owner))
	t.Cleanup(func() { must(t, l.HealLink(context.Background(), owner)) })
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
		if hosts, err := l.Resolvers(t.Context(), address); err != nil || len(hosts) != 1 {
			t.Errorf("at the end of the outage %v answer for %s: %v", hosts, address, err)
		}
	}
	must(t, l.ResumeAPI())
	must(t, l.HealLink(t.Context(), owner))
	for _, p := range controllers {
		// A controller that lost its lease may end, as a Pod would be restarted.
		revive(t, l, p)
	}
	for _, node := range l.Nodes() {
		if p, err := l.Process(lab.SpeakerOn(node)); err != nil || !p.Alive() {
			t.Errorf("the speaker on %s did not live through the outage (%v)", node, err)
		}
	}
	after := serve(t, l, "afterwards")
	for _, address := range after {
		eventually(t, 20*time.Second, "a Service created afterwards answers", func() error {
			_, err := l.Curl(t.Context(), address, 80)
			return err
		})
	}
}

// revive starts a process again if it has ended.
func revive(t *testing.T, l *lab.Lab, name string) {
	t.Helper()
	p, err := l.Process(name)
	must(t, err)
	if p.Alive() {
		return
	}
	t.Logf("%s ended:\n%s", name, p.Tail(5))
	if err := l.Restart(t.Context(), name); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
}
