package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/belfrylb/belfry/hack/lab"
	"github.com/belfrylb/belfry/internal/cli"
	"github.com/belfrylb/belfry/internal/world"
)

// An asker asks who answers for an address by kubectl belfry probe, and returns what that
// prints, and as what it ends.
type asker func(t *testing.T, a netip.Addr) (*world.Probe, int)

func newAsker(t *testing.T, l *lab.Lab) asker {
	t.Helper()
	belfry := plugin(t, l)
	return func(t *testing.T, a netip.Addr) (*world.Probe, int) {
		t.Helper()
		out, code := belfry("probe", a.String(), "-o", "json")
		var is world.Probe
		if err := json.Unmarshal([]byte(out), &is); err != nil {
			t.Fatalf("probe %s ends with %d: %v: %s", a, code, err, out)
		}
		return &is, code
	}
}

// says waits until the condition Announced of a Service has all of some words, while
// somebody asks for an address of it.
func says(t *testing.T, l *lab.Lab, ask asker, name string, a netip.Addr, words ...string) {
	t.Helper()
	ask(t, a)
	eventually(t, 50*time.Second, fmt.Sprintf("the condition says %q", words), func() error {
		is := announced(t, l, name)
		for _, w := range words {
			if !strings.Contains(is, w) {
				return fmt.Errorf("no %q in %s", w, is)
			}
		}
		return nil
	})
}

// leaveBehind has a node's kernel hold addresses on its loopback, as kube-proxy in IPVS
// mode does without strictARP, and as a leftover does.
func leaveBehind(t *testing.T, l *lab.Lab, node string, addresses ...netip.Addr) (end func()) {
	t.Helper()
	change := func(ctx context.Context, verb string) error {
		for _, a := range addresses {
			if _, err := l.Network.Exec(ctx, node, "ip", "address", verb, netip.PrefixFrom(a, a.BitLen()).String(), "dev", "lo"); err != nil {
				return err
			}
		}
		return nil
	}
	must(t, change(t.Context(), "add"))
	ended := false
	end = func() {
		if !ended {
			ended = true
			must(t, change(context.Background(), "delete"))
		}
	}
	t.Cleanup(end)
	return end
}

// muzzle drops what a node answers for an IPv4 address, as a switch that filters does.
func muzzle(t *testing.T, l *lab.Lab, node string, a netip.Addr) (end func()) {
	t.Helper()
	const table = "muzzled"
	for _, r := range [][]string{
		{"add", "table", "netdev", table},
		{"add", "chain", "netdev", table, "out", "{ type filter hook egress device " + lab.NIC + " priority 0; }"},
		{"add", "rule", "netdev", table, "out", "arp", "saddr", "ip", a.String(), "drop"},
	} {
		out, err := l.Network.Exec(t.Context(), node, append([]string{"nft"}, r...)...)
		if err != nil {
			t.Fatalf("%v: %v: %s", r, err, out)
		}
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_, err := l.Network.Exec(context.Background(), node, "nft", "delete", "table", "netdev", table)
			must(t, err)
		}
	}
	t.Cleanup(end)
	return end
}

// Whatever the segment says stands in the condition, and as soon as it is put right the
// condition is Verified again.
func TestTheConditionSaysWhatTheSegmentSays(t *testing.T) {
	l := cluster(t)
	ask := newAsker(t, l)
	addresses := serve(t, l, "proven")
	settle(t, l)
	v4 := addresses[0]
	p := probe(t, l, v4)
	eventually(t, 30*time.Second, "the condition says that it was verified", func() error {
		if is := announced(t, l, "proven"); !strings.Contains(is, `"reason":"Verified"`) {
			return fmt.Errorf("it is %s", is)
		}
		return nil
	})
	owner := answers(t, p, 10*time.Second, anybody)
	for _, a := range addresses {
		is, code := ask(t, a)
		if code != cli.Well || is.Verdict != "Verified" || len(is.Answers) == 0 {
			t.Errorf("probe %s ends with %d: %+v", a, code, is)
		}
		for _, h := range is.Answers {
			if h.Node != is.Owner || h.Voice != "Speaker" || h.HeardBy == is.Owner {
				t.Errorf("probe %s: %+v answers, want the speaker of %s alone", a, h, is.Owner)
			}
		}
		t.Logf("probe %s: %+v", a, is.Answers)
	}

	// The kernel of another node has it, too. Its speaker is a member, and the one that
	// asks for the owner's addresses as a client would: it cannot hear its own kernel.
	nodes := slices.Sorted(slices.Values(l.Network.Nodes()))
	leftover := nodes[(slices.Index(nodes, owner)+1)%len(nodes)]
	end := leaveBehind(t, l, leftover, v4)
	is, code := ask(t, v4)
	if code != cli.Problems || is.Verdict != "AnsweredTwice" || !slices.ContainsFunc(is.Answers, func(h world.ProbeAnswer) bool { return h.Node == leftover && h.Voice == "Kernel" }) {
		t.Errorf("probe %s ends with %d: %+v", v4, code, is)
	}
	says(t, l, ask, "proven", v4, `"status":"False"`, `"reason":"AnsweredTwice"`, "the kernel of node "+leftover, "strictARP")
	event(t, l, "proven", "AnsweredTwice", leftover)
	end()
	says(t, l, ask, "proven", v4, `"status":"True"`, `"reason":"Verified"`)

	// So has a host that is no node.
	leave := squat(t, l, lab.Router, v4)
	says(t, l, ask, "proven", v4, `"status":"False"`, `"reason":"AnsweredTwice"`, "it is no node's")
	leave()
	says(t, l, ask, "proven", v4, `"status":"True"`, `"reason":"Verified"`)

	// And the kernel of a node whose speaker is gone.
	owner = answers(t, p, 10*time.Second, func(h string) bool { return slices.Contains(l.Network.Nodes(), h) })
	silent := others(l, owner)[1]
	must(t, kill(t.Context(), l, silent))
	t.Cleanup(func() { revive(t, l, lab.SpeakerOn(silent)) })
	end = leaveBehind(t, l, silent, v4)
	says(t, l, ask, "proven", v4, `"status":"False"`, `"reason":"AnsweredTwice"`, silent)
	end()
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(silent)))
	settle(t, l)
	says(t, l, ask, "proven", v4, `"status":"True"`, `"reason":"Verified"`)

	// What the owner answers is lost on the way.
	owner = answers(t, p, 10*time.Second, anybody)
	end = muzzle(t, l, owner, v4)
	says(t, l, ask, "proven", v4, `"status":"False"`, `"reason":"Unanswered"`, "no station answers for it on the segment")
	if is, code := ask(t, v4); code != cli.Problems || is.Verdict != "Unanswered" || len(is.Answers) > 0 {
		t.Errorf("probe %s ends with %d: %+v", v4, code, is)
	}
	end()
	says(t, l, ask, "proven", v4, `"status":"True"`, `"reason":"Verified"`)
	if now := answers(t, p, 10*time.Second, anybody); now != owner {
		t.Errorf("%s answers instead of %s: a verdict moves nothing", now, owner)
	}
}
