package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/belfrylb/belfry/api/v1beta1"
	"github.com/belfrylb/belfry/hack/lab"
)

// blockGossip drops gossip of these protocols on nodes, as a firewall on them would,
// until it is ended.
func blockGossip(t *testing.T, l *lab.Lab, nodes []string, protocols ...string) (end func()) {
	t.Helper()
	const table = "gossip_blocked"
	drop := func(ctx context.Context, node string) error {
		rules := [][]string{
			{"add", "table", "inet", table},
			{"add", "chain", "inet", table, "in", "{ type filter hook input priority 0; }"},
			{"add", "chain", "inet", table, "out", "{ type filter hook output priority 0; }"},
		}
		for _, p := range protocols {
			rules = append(rules,
				[]string{"add", "rule", "inet", table, "in", p, "dport", "7870", "drop"},
				[]string{"add", "rule", "inet", table, "out", p, "dport", "7870", "drop"})
		}
		for _, r := range rules {
			if out, err := l.Network.Exec(ctx, node, append([]string{"nft"}, r...)...); err != nil {
				return fmt.Errorf("%v: %w: %s", r, err, out)
			}
		}
		return nil
	}
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		for _, node := range nodes {
			_, err := l.Network.Exec(context.Background(), node, "nft", "delete", "table", "inet", table)
			must(t, err)
		}
	}
	t.Cleanup(end)
	for _, node := range nodes {
		must(t, drop(t.Context(), node))
	}
	return end
}

// unasked returns the frames by which nodes claimed an address unasked since a time.
func unasked(w *lab.Watcher, address netip.Addr, since time.Time) (n int) {
	for _, c := range w.Claims(address) {
		if c.At.After(since) && !c.Kind.Answers() {
			n++
		}
	}
	return n
}

// one fails the test where a question had none or two answers for longer than a bound.
func one(t *testing.T, address netip.Addr, r lab.Report, none, both time.Duration) {
	t.Helper()
	if gap, at := r.LongestGap(); gap > none {
		t.Errorf("%s without an answer for %s at %s:\n%s", address, gap, at.Format(time.TimeOnly), r)
	}
	contested := r.Contested()
	for i, first := 0, 0; i < len(contested); i++ {
		if i > 0 && contested[i].At.Sub(contested[i-1].At) > 500*time.Millisecond {
			first = i
		}
		if lasted := contested[i].At.Sub(contested[first].At); lasted > both {
			t.Errorf("%s was answered for by several for %s:\n%s", address, lasted, r)
			return
		}
	}
}

// tellBlocked fails the test unless all other nodes tell that gossip with a node is blocked
// by these protocols, each in its SpeakerStatus and by an Event about that.
func tellBlocked(t *testing.T, l *lab.Lab, to string, protocols ...string) {
	t.Helper()
	for _, node := range others(l, to) {
		eventually(t, 15*time.Second, node+" tells that gossip to "+to+" is blocked", func() error {
			is := speakerStatuses(t, l)[node].Status
			i := slices.IndexFunc(is.Membership.Blocked, func(b v1beta1.BlockedPeer) bool { return b.Node == to })
			if i < 0 || !slices.Equal(is.Membership.Blocked[i].Protocols, protocols) {
				return fmt.Errorf("it is blocked to %v", is.Membership.Blocked)
			}
			if !meta.IsStatusConditionTrue(is.Conditions, v1beta1.ConditionGossipBlocked) {
				return fmt.Errorf("the conditions are %v", is.Conditions)
			}
			return nil
		})
		event(t, l, node, "GossipBlocked", to+" ("+strings.Join(protocols, " and ")+")")
	}
}

// tellOpen fails the test unless all nodes tell that gossip is not blocked any more.
func tellOpen(t *testing.T, l *lab.Lab) {
	t.Helper()
	for _, node := range l.Network.Nodes() {
		eventually(t, 15*time.Second, node+" tells that gossip is not blocked", func() error {
			is := speakerStatuses(t, l)[node].Status
			if len(is.Membership.Blocked) > 0 || !meta.IsStatusConditionFalse(is.Conditions, v1beta1.ConditionGossipBlocked) {
				return fmt.Errorf("it tells %v, %v", is.Membership.Blocked, is.Conditions)
			}
			return nil
		})
	}
}

func TestEachAddressHasOneOwnerWhileGossipIsBlocked(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "walled")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	w, err := l.Observers.Watch(lab.Client)
	must(t, err)
	t.Cleanup(w.Close)
	owners := ownersOf(t, probes)
	blocked := time.Now()
	end := blockGossip(t, l, l.Network.Nodes(), "udp", "tcp")
	time.Sleep(30 * time.Second) // the fault itself, not a wait for something
	for i, p := range probes {
		r := p.Report().Since(blocked)
		if hosts := r.Hosts(); len(hosts) != 1 || hosts[0] != owners[i] || len(r.Contested()) > 0 {
			t.Errorf("%v answered for %s, %d questions had two answers, want %s alone:\n%s", hosts, addresses[i], len(r.Contested()), owners[i], r)
		}
		one(t, addresses[i], r, 300*time.Millisecond, 0)
		lasted := time.Since(blocked)
		if n := unasked(w, addresses[i], blocked); float64(n) > 2*lasted.Seconds() {
			t.Errorf("%d frames claimed %s unasked within %s", n, addresses[i], lasted)
		} else {
			t.Logf("%s: %d questions, %s alone answered, %d frames unasked in %s", addresses[i], len(r.Questions), owners[i], n, lasted.Round(time.Second))
		}
	}

	tellBlocked(t, l, owners[0], "UDP", "TCP")
	if is := announced(t, l, "walled"); !strings.Contains(is, `"status":"True"`) {
		t.Errorf("the condition is %s", is)
	}

	// A speaker that starts finds out on the segment what others answer for.
	restarted := time.Now()
	starter := others(l, owners[0])[0]
	must(t, kill(t.Context(), l, starter))
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(starter)))
	time.Sleep(8 * time.Second) // the same
	for i, p := range probes {
		r := p.Report().Since(restarted)
		if owners[i] != starter {
			one(t, addresses[i], r, 300*time.Millisecond, 0)
		} else {
			one(t, addresses[i], r, 3*time.Second, time.Second)
		}
		if last := r.Since(time.Now().Add(-time.Second)); len(last.Hosts()) != 1 {
			t.Errorf("%v answer for %s at the end:\n%s", last.Hosts(), addresses[i], r)
		}
	}

	// An owner fails: several may take over, and one is left.
	owner := answers(t, probes[0], 10*time.Second, anybody)
	killed := time.Now()
	must(t, kill(t.Context(), l, owner))
	t.Cleanup(func() { revive(t, l, lab.SpeakerOn(owner)) })
	answers(t, probes[0], 10*time.Second, not(owner))
	time.Sleep(5 * time.Second) // the same
	r := probes[0].Report().Since(killed.Add(-100 * time.Millisecond))
	one(t, addresses[0], r, 4*time.Second, 1500*time.Millisecond)
	gap, _ := r.LongestGap()
	t.Logf("%s killed while gossip was blocked: %s without an answer, %d of %d questions had two", owner, gap, len(r.Contested()), len(r.Questions))
	heirs := r.Since(time.Now().Add(-time.Second)).Hosts()
	if len(heirs) != 1 {
		t.Errorf("%v answer at the end:\n%s", heirs, r)
	}
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(owner)))

	healed := time.Now()
	end()
	settle(t, l)
	tellOpen(t, l)
	for i, p := range probes {
		goesOn(t, p, 200)
		r := p.Report().Since(healed)
		one(t, addresses[i], r, 500*time.Millisecond, time.Second)
		if last := r.Since(time.Now().Add(-500 * time.Millisecond)); len(last.Hosts()) != 1 {
			t.Errorf("%v answer for %s after it healed:\n%s", last.Hosts(), addresses[i], r)
		}
	}
}

func TestSpeakersThatStartWithoutGossipsConnectionsHaveOneOwner(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "unconnected")
	probes := probeAll(t, l, addresses)
	end := blockGossip(t, l, l.Network.Nodes(), "tcp")
	for _, node := range l.Network.Nodes() {
		must(t, kill(t.Context(), l, node))
	}
	for _, node := range l.Network.Nodes() {
		must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(node)))
	}
	for i, p := range probes {
		answers(t, p, 20*time.Second, anybody)
		eventually(t, 20*time.Second, "one node answers for "+addresses[i].String(), func() error {
			if hosts := p.Report().Since(time.Now().Add(-2 * time.Second)).Hosts(); len(hosts) != 1 {
				return fmt.Errorf("%v answer", hosts)
			}
			return nil
		})
		stable := time.Now()
		goesOn(t, p, 1000)
		one(t, addresses[i], p.Report().Since(stable), 500*time.Millisecond, 0)
	}
	end()
	settle(t, l)
	for i, p := range probes {
		goesOn(t, p, 200)
		if hosts := p.Report().Since(time.Now().Add(-500 * time.Millisecond)).Hosts(); len(hosts) != 1 {
			t.Errorf("%v answer for %s after it healed", hosts, addresses[i])
		}
	}
}

// memberlist connects to members of which no packet comes back: nobody is lost, and all
// tell each other by connections what they claim.
func TestWithGossipsPacketsBlockedNothingMovesAndWhatIsNewIsHeard(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "unpacketed")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	owners := ownersOf(t, probes)
	blocked := time.Now()
	end := blockGossip(t, l, l.Network.Nodes(), "udp")
	tellBlocked(t, l, owners[0], "UDP")
	for _, node := range l.Network.Nodes() {
		if is := speakerStatuses(t, l)[node].Status.Membership; int(is.Alive) != len(l.Network.Nodes()) || len(is.Unheard) > 0 {
			t.Errorf("%s sees %+v", node, is)
		}
	}
	for i, p := range probes {
		goesOn(t, p, 400)
		r := p.Report().Since(blocked)
		if hosts := r.Hosts(); len(hosts) != 1 || hosts[0] != owners[i] || len(r.Contested()) > 0 {
			t.Errorf("%v answered for %s, %d questions had two answers, want %s alone:\n%s", hosts, addresses[i], len(r.Contested()), owners[i], r)
		}
		one(t, addresses[i], r, 300*time.Millisecond, 0)
	}

	// An owner stops in an orderly way: its successor takes over before it stops answering.
	left := time.Now()
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(owners[0])))
	answers(t, probes[0], 10*time.Second, not(owners[0]))
	settle(t, l)
	goesOn(t, probes[0], 200)
	r := probes[0].Report().Since(left)
	one(t, addresses[0], r, 300*time.Millisecond, time.Second)
	gap, _ := r.LongestGap()
	t.Logf("%s restarted while UDP was blocked: %s without an answer", owners[0], gap)

	// Another one fails.
	owner := answers(t, probes[0], 10*time.Second, anybody)
	killed := time.Now()
	must(t, kill(t.Context(), l, owner))
	t.Cleanup(func() { revive(t, l, lab.SpeakerOn(owner)) })
	answers(t, probes[0], 10*time.Second, not(owner))
	goesOn(t, probes[0], 400)
	r = probes[0].Report().Since(killed.Add(-100 * time.Millisecond))
	one(t, addresses[0], r, 2*time.Second, time.Second)
	gap, _ = r.LongestGap()
	t.Logf("%s killed while UDP was blocked: %s without an answer", owner, gap)
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(owner)))
	end()
	settle(t, l)
	tellOpen(t, l)
}

// A speaker that starts when the Secret was deleted must get the key that the others
// have, or it hears none of them.
func TestADeletedGossipSecretIsRestoredAndASpeakerThatStartsHearsTheOthers(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "keyed")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	owners := ownersOf(t, probes)
	key := func() string {
		out, err := l.Cluster.Kubectl(t.Context(), "--namespace", lab.Namespace, "get", "secret", "belfry-gossip", "--ignore-not-found", "--output=jsonpath={.data.key}")
		must(t, err)
		return out
	}
	before := key()
	starter := others(l, owners[0])[0]
	deleted := time.Now()
	_, err := l.Cluster.Kubectl(t.Context(), "--namespace", lab.Namespace, "delete", "secret", "belfry-gossip")
	must(t, err)
	eventually(t, 20*time.Second, "the Secret is there again", func() error {
		if is := key(); is != before {
			return fmt.Errorf("the key has %d characters, and is not the one before", len(is))
		}
		return nil
	})
	t.Logf("restored within %s", time.Since(deleted))
	must(t, kill(t.Context(), l, starter))
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(starter)))
	settle(t, l)
	for i, p := range probes {
		goesOn(t, p, 200)
		r := p.Report().Since(deleted)
		if owners[i] == starter {
			one(t, addresses[i], r, 3*time.Second, time.Second)
			continue
		}
		one(t, addresses[i], r, 3*time.Second, 0) // how soon is not what is at stake here
		if hosts := r.Hosts(); len(hosts) != 1 || hosts[0] != owners[i] {
			t.Errorf("%v answered for %s, want %s alone:\n%s", hosts, addresses[i], owners[i], r)
		}
	}
}

// The key of gossip is changed by the annotation while the wire is watched, and a speaker is
// killed and starts in the middle.
func TestTheGossipKeyIsChangedAndNoAddressIsAnsweredTwice(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "rotated")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	owners := ownersOf(t, probes)
	get := func(path string) string {
		out, err := l.Cluster.Kubectl(t.Context(), "--namespace", lab.Namespace, "get", "secret", "belfry-gossip", "--ignore-not-found", "--output=jsonpath="+path)
		must(t, err)
		return out
	}
	changed := func(from string) {
		t.Helper()
		eventually(t, time.Minute, "all speakers use another key, and no other", func() error {
			if key, more := get("{.data.key}"), get("{.data.next}{.data.previous}{.metadata.annotations.belfry\\.dev/lost-keys}"); key == "" || key == from || more != "" {
				return fmt.Errorf("the Secret has a key: %v, another: %v, more: %v", key != "", key != from, more != "")
			}
			out, err := l.Cluster.Kubectl(t.Context(), "get", "speakerstatuses.belfry.dev", "--output=jsonpath={range .items[*]}{.status.membership.keys.sends} {.status.membership.keys.accepts}{\"\\n\"}{end}")
			if err != nil {
				return err
			}
			lines := strings.Split(strings.TrimSpace(out), "\n")
			for _, line := range lines {
				if line != lines[0] || strings.Contains(line, ",") || len(line) < 8 {
					return fmt.Errorf("speakers use\n%s", out)
				}
			}
			return nil
		})
	}
	starter := others(l, owners[0])[0]
	first, begun := get("{.data.key}"), time.Now()
	_, err := l.Cluster.Kubectl(t.Context(), "--namespace", lab.Namespace, "annotate", "--overwrite", "secret", "belfry-gossip", "belfry.dev/rotate=e2e")
	must(t, err)
	must(t, kill(t.Context(), l, starter))
	must(t, l.Processes.Restart(t.Context(), lab.SpeakerOn(starter)))
	changed(first)
	t.Logf("changed within %s, with a speaker that started meanwhile", time.Since(begun))
	settle(t, l)
	for i, p := range probes {
		goesOn(t, p, 200)
		r := p.Report().Since(begun)
		if n := len(r.Contested()); n > 0 && owners[i] != starter {
			t.Errorf("%d of %d questions for %s had two answers:\n%s", n, len(r.Questions), addresses[i], r)
		}
		if hosts := r.Hosts(); owners[i] != starter && (len(hosts) != 1 || hosts[0] != owners[i]) {
			t.Errorf("%v answered for %s, want %s alone:\n%s", hosts, addresses[i], owners[i], r)
		}
	}
}

func TestANodeThatIsRenumberedKeepsItsAddressesAndIsFoundAgain(t *testing.T) {
	l := cluster(t)
	addresses := serve(t, l, "renumbered")
	settle(t, l)
	probes := probeAll(t, l, addresses)
	node := answers(t, probes[0], 10*time.Second, anybody)
	before, v6 := l.Network.Addresses(node)
	after := netip.MustParseAddr("198.51.100.99")
	// Else the second address of a subnet goes with the first.
	_, err := l.Network.Exec(t.Context(), node, "sysctl", "-w", "net.ipv4.conf.all.promote_secondaries=1")
	must(t, err)
	number := func(ctx context.Context, from, to netip.Addr) {
		for _, args := range [][]string{
			{"ip", "address", "add", to.String() + "/24", "dev", lab.NIC},
			{"ip", "address", "delete", from.String() + "/24", "dev", lab.NIC},
		} {
			if out, err := l.Network.Exec(ctx, node, args...); err != nil {
				t.Errorf("%v: %v: %s", args, err, out)
			}
		}
		if out, err := l.Cluster.Kubectl(ctx, "patch", "node", node, "--subresource=status", "--type=merge", fmt.Sprintf(
			`--patch={"status":{"addresses":[{"type":"InternalIP","address":"%s"},{"type":"InternalIP","address":"%s"}]}}`, to, v6)); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	}
	renumbered := time.Now()
	number(t.Context(), before, after)
	t.Cleanup(func() {
		number(context.Background(), after, before)
		must(t, l.Network.InterfaceUp(context.Background(), node)) // and the routes
		// Else the tests that follow wait until its connections are given up once more.
		must(t, l.Processes.Restart(context.Background(), lab.SpeakerOn(node)))
	})
	// Its connections to the API server are from the former address. They are given up
	// after a quarter of a minute, and then it learns of the new one; by client-go's own
	// settings that takes three quarters.
	eventually(t, 40*time.Second, node+" gossips at its new address", func() error {
		out, err := l.Network.Exec(t.Context(), node, "ss", "-Hlun")
		if err == nil && !strings.Contains(out, after.String()+":7870") {
			err = fmt.Errorf("it listens at\n%s", out)
		}
		return err
	})
	settle(t, l)
	for i, p := range probes {
		goesOn(t, p, 400)
		r := p.Report().Since(renumbered)
		one(t, addresses[i], r, 500*time.Millisecond, time.Second)
		t.Logf("%s: %v answered, %d of %d questions had two answers", addresses[i], r.Hosts(), len(r.Contested()), len(r.Questions))
		if len(r.Hosts()) != 1 {
			t.Errorf("%v answered for %s, whose owner only changed its own address:\n%s", r.Hosts(), addresses[i], r)
		}
	}
}
