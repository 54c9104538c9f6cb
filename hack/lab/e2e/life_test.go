package e2e

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
)

// The nodes announce on interfaces without addresses, and gossip on another one.
func TestANodeThatAnnouncesOnABareInterfaceIsReplaced(t *testing.T) {
	l := cluster(t)
	const nic = "lan1"
	for _, node := range l.Network.Nodes() {
		_, err := l.Network.Cable(t.Context(), node, nic)
		must(t, err)
		t.Cleanup(func() { must(t, l.Network.Uncable(context.Background(), node, nic)) })
	}
	on := func(interfaces string) {
		_, err := l.Cluster.Kubectl(context.Background(), "patch", "l2advertisement", "edge", "--type=merge", `--patch={"spec":{"interfaces":`+interfaces+`}}`)
		must(t, err)
	}
	on(`["` + nic + `"]`)
	t.Cleanup(func() { on("null") })
	for _, address := range serve(t, l, "bare") {
		settle(t, l)
		p := probe(t, l, address)
		owner := answers(t, p, 20*time.Second, anybody)
		goesOn(t, p, 50)

		// With its gossip cut off it goes on answering, alone: its speaker is asked on
		// the interface where it announces.
		begun := time.Now()
		must(t, l.Network.CutLink(t.Context(), owner))
		goesOn(t, p, 300)
		if hosts := p.Report().Since(begun).Hosts(); !slices.Equal(hosts, []string{owner}) {
			t.Errorf("%s: %v answer while %s cannot gossip:\n%s", address, hosts, owner, p.Report())
		}
		must(t, l.Network.HealLink(t.Context(), owner))
		settle(t, l)
		owner = answers(t, p, 10*time.Second, anybody)
		goesOn(t, p, 50)

		// Its kernel can be asked on the network of its gossip alone, where it is
		// watched, too. Without that it was given up after a second and a half.
		begun = time.Now()
		must(t, l.Machines.PowerOff(t.Context(), owner))
		heir := answers(t, p, 10*time.Second, not(owner))
		goesOn(t, p, 50)
		gap, _ := p.Report().Since(begun.Add(-100 * time.Millisecond)).LongestGap()
		t.Logf("%s: power off, from %s to %s, %d ms without an answer", address, owner, heir, gap.Milliseconds())
		if gap > time.Second {
			t.Errorf("%s without an answer:\n%s", gap, p.Report())
		}
		must(t, l.Machines.PowerOn(t.Context(), owner))
		p.Stop()
	}
}

// A speaker that is stopped for seconds, and loses its addresses, answers for none of
// them when it runs on.
func TestASpeakerThatIsStoppedForSecondsAnswersForNothingItLost(t *testing.T) {
	l := cluster(t)
	for _, address := range serve(t, l, "stopped") {
		settle(t, l)
		p := probe(t, l, address)
		owner := answers(t, p, 20*time.Second, anybody)
		goesOn(t, p, 50)
		speaker, err := l.Processes.Process(lab.SpeakerOn(owner))
		must(t, err)
		must(t, speaker.Pause())
		heir := answers(t, p, 10*time.Second, not(owner))
		goesOn(t, p, 50)
		lost := time.Now() // what is asked from now on waits for it, too
		goesOn(t, p, 300)
		must(t, speaker.Resume())
		goesOn(t, p, 300)
		if hosts := p.Stop().Since(lost).Hosts(); !slices.Equal(hosts, []string{heir}) {
			t.Errorf("%s: %v answer after the speaker on %s runs on, want %s alone:\n%s", address, hosts, owner, heir, p.Report())
		}
	}
}
