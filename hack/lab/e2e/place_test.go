package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// places returns where the addresses of a Service are recorded to be.
func places(t *testing.T, l *lab.Lab, name string) map[netip.Addr]string {
	t.Helper()
	out, err := l.Cluster.Kubectl(t.Context(), "get", "service", name, `--output=jsonpath={.status.conditions[?(@.type=="belfry.dev/Placed")].message}`)
	must(t, err)
	all := map[netip.Addr]string{}
	for pair := range strings.SplitSeq(strings.TrimSpace(out), ", ") {
		if address, node, ok := strings.Cut(pair, " on "); ok {
			all[netip.MustParseAddr(address)] = node
		}
	}
	return all
}

// recorded waits until an address is recorded to be on a node.
func recorded(t *testing.T, l *lab.Lab, name string, address netip.Addr, node string) {
	t.Helper()
	eventually(t, 15*time.Second, fmt.Sprintf("%s is recorded to be on %s", address, node), func() error {
		if got := places(t, l, name)[address]; got != node {
			return fmt.Errorf("it is on %q", got)
		}
		return nil
	})
}

// seamless checks that since a moment an address had an owner whenever it went
// from one to another, and that at the end a host alone answers. Moments in which
// the whole machine stands still are no concern of this test.
func seamless(t *testing.T, p *lab.Prober, since time.Time, host string) {
	t.Helper()
	goesOn(t, p, 100)
	r := p.Report().Since(since)
	spells := r.Timeline()
	for i, s := range spells {
		if len(s.Hosts) > 0 || i == 0 || i == len(spells)-1 {
			continue
		}
		before, after := spells[i-1].Hosts, spells[i+1].Hosts
		if !slices.ContainsFunc(before, func(h string) bool { return slices.Contains(after, h) }) {
			t.Errorf("%d questions went unanswered between %v and %v:\n%s", s.Questions, before, after, r)
		}
	}
	last := r.Questions[max(0, len(r.Questions)-50):]
	if hosts := (lab.Report{Questions: last}).Hosts(); !slices.Equal(hosts, []string{host}) {
		t.Errorf("at the end %v answer, want %s alone:\n%s", hosts, host, r)
	}
}

// move asks to have a Service's addresses on a node; each value is answered once.
func move(t *testing.T, l *lab.Lab, name, to string) {
	t.Helper()
	to += time.Now().Format(" " + time.RFC3339Nano)
	_, err := l.Cluster.Kubectl(t.Context(), "annotate", "service", name, "--overwrite", "belfry.dev/move-to="+to)
	must(t, err)
}

func TestAnAddressStaysWhereItWentUntilItIsMoved(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "placed")
	for _, address := range addresses {
		t.Run(address.String(), func(t *testing.T) {
			settle(t, l)
			p := probe(t, l, address)
			first := answers(t, p, 10*time.Second, anybody)
			recorded(t, l, "placed", address, first)

			// Its speaker dies and returns.
			must(t, kill(t.Context(), l, first))
			heir := answers(t, p, 10*time.Second, not(first))
			recorded(t, l, "placed", address, heir)
			back := time.Now()
			must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(first)))
			settle(t, l)
			seamless(t, p, back, heir)

			// The next one is cut off. It returns with a cluster in its memory
			// where the address is still its own.
			must(t, l.Network.CutLink(t.Context(), heir))
			t.Cleanup(func() { must(t, l.Network.HealLink(context.Background(), heir)) })
			second := answers(t, p, 10*time.Second, not(heir))
			recorded(t, l, "placed", address, second)
			must(t, l.Network.HealLink(t.Context(), heir))
			settle(t, l)
			goesOn(t, p, 200)
			seamless(t, p, time.Now().Add(-500*time.Millisecond), second)

			// A person moves it.
			moved := time.Now()
			move(t, l, "placed", first)
			answers(t, p, 10*time.Second, only(first))
			seamless(t, p, moved, first)
			recorded(t, l, "placed", address, first)
		})
	}
}

func TestAnAddressFailsBackWhereThatIsAskedFor(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "faithful")
	ad := func(failback string) {
		_, err := l.Cluster.Kubectl(context.Background(), "patch", "l2advertisement", "edge", "--type=merge", `--patch={"spec":{"failback":"`+failback+`"}}`)
		must(t, err)
	}
	ad("Immediate")
	t.Cleanup(func() { ad("Never") })
	for _, address := range addresses {
		t.Run(address.String(), func(t *testing.T) {
			settle(t, l)
			p := probe(t, l, address)
			owner := places(t, l, "faithful")[address]
			answers(t, p, 10*time.Second, only(owner))
			must(t, kill(t.Context(), l, owner))
			answers(t, p, 10*time.Second, not(owner))
			time.Sleep(2 * time.Second) // longer than an owner would take to record itself
			recorded(t, l, "faithful", address, owner)
			back := time.Now()
			must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(owner)))
			answers(t, p, 20*time.Second, only(owner))
			seamless(t, p, back, owner)
		})
	}
}

func TestRebalancingMovesWithoutAGap(t *testing.T) {
	l := cluster(t)
	settle(t, l)
	probes := map[netip.Addr]*lab.Prober{}
	crowded := l.Network.Nodes()[0]
	var names []string
	for i := range 3 {
		name := fmt.Sprintf("crowd-%d", i)
		names = append(names, name)
		for _, address := range serve(t, l, name) {
			probes[address] = probe(t, l, address)
		}
		move(t, l, name, crowded)
	}
	for _, p := range probes {
		answers(t, p, 10*time.Second, only(crowded))
	}
	for _, p := range probes {
		goesOn(t, p, 20)
	}
	begun := time.Now()
	_, err := l.Cluster.Kubectl(t.Context(), "annotate", "l2advertisement", "edge", "--overwrite", "belfry.dev/rebalance="+begun.Format(time.TimeOnly))
	must(t, err)
	where := map[netip.Addr]string{}
	eventually(t, 20*time.Second, "each node has two addresses", func() error {
		load := map[string]int{}
		for _, name := range names {
			for address, node := range places(t, l, name) {
				where[address] = node
				load[node]++
			}
		}
		for _, node := range l.Network.Nodes() {
			if load[node] != 2 {
				return fmt.Errorf("the nodes have %v", load)
			}
		}
		return nil
	})
	for address, p := range probes {
		answers(t, p, 10*time.Second, only(where[address]))
	}
	for address, p := range probes {
		seamless(t, p, begun, where[address])
	}
}
