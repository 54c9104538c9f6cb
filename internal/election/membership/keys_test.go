package membership

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/belfrylb/belfry/internal/gossipkey"
)

// rotate has each member of a list follow a Secret, at a moment of its own.
func (w *world) rotate(is gossipkey.Secret, members []*virtual, during time.Duration) {
	var all sync.WaitGroup
	for _, m := range members {
		at := time.Duration(w.rand.Int64N(int64(during)))
		all.Go(func() {
			time.Sleep(at)
			m.keys = gossipkey.Follow(m.keys, is)
			m.SetKeys(m.keys)
		})
	}
	all.Wait()
}

func (w *world) foreign() (n float64) {
	for _, m := range w.members {
		n += testutil.ToFloat64(m.metrics.dropped.WithLabelValues(dropForeign))
	}
	return n
}

// Members change their keys one after the other, over seconds; nobody doubts anybody, no
// packet is foreign, and who starts meanwhile is heard by all.
func TestKeysChangeWithoutADoubt(t *testing.T) {
	first, second := testKeys.Send, gossipkey.Key{2}
	for seed := range uint64(8) {
		within(t, seed, 5, func(w *world) {
			begun := time.Now()
			steps := []gossipkey.Secret{{Key: first, Next: second}, {Key: second, Previous: first}, {Key: second}}
			if seed >= 4 { // The text of the first is lost.
				steps = []gossipkey.Secret{{Next: second, Lost: []gossipkey.ID{first.ID()}}, {Key: second, Lost: []gossipkey.ID{first.ID()}}, {Key: second}}
			}
			for i, is := range steps {
				w.rotate(is, w.members, 5*time.Second)
				for _, m := range w.members {
					if use := m.keys.Use(""); len(use.Accepts) != []int{2, 2, 1}[i] || (use.Sends == second.ID()) != (i > 0) {
						t.Fatalf("after step %d %s uses %v", i, w.node(m.host), use)
					}
				}
				time.Sleep(5 * time.Second)
			}
			if events := w.history.since(begun); len(events) > 0 {
				w.fatal(begun, "%d events", len(events))
			}
			if n := w.foreign(); n != 0 {
				t.Errorf("%v packets and streams were foreign", n)
			}
			// By the new key alone; whoever has the old one is not heard.
			late := w.members[0]
			late.kill()
			late.ended()
			time.Sleep(5 * time.Second)
			late.keys = gossipkey.Ring{Send: first}
			late.start(w.peers()...)
			time.Sleep(10 * time.Second)
			if n := len(late.Members()); n != 1 || w.foreign() == 0 {
				t.Errorf("by the retired key it hears %d members, and %v was foreign", n, w.foreign())
			}
			late.kill()
			late.ended()
			late.keys = gossipkey.Ring{Send: second}
			late.start(w.peers()...)
			w.settle()
		})
	}
}

// The test that shows why a key is not used before all accept it, and not removed
// before all have stopped to send with it: members lose each other.
func TestAKeyThatIsUsedTooEarlyOrRemovedTooEarlyTearsGossip(t *testing.T) {
	first, second := testKeys.Send, gossipkey.Key{2}
	for name, rings := range map[string][2]gossipkey.Ring{
		"used too early":    {{Send: second, Also: first}, {Send: first}},
		"removed too early": {{Send: second}, {Send: first, Also: second}},
	} {
		within(t, 1, 3, func(w *world) {
			begun := time.Now()
			w.members[0].SetKeys(rings[0])
			w.members[1].SetKeys(rings[1])
			w.members[2].SetKeys(rings[1])
			w.await("a loss", 10*time.Second, func() bool {
				return slices.ContainsFunc(w.history.since(begun), func(e event) bool { return e.what == sawGone || e.what == sawSuspect })
			})
			t.Logf("%s: lost after %v", name, time.Since(begun))
			for _, m := range w.members {
				m.SetKeys(gossipkey.Ring{Send: second, Also: first})
			}
			w.settle()
		})
	}
}

// What was recorded of a cluster, while members went, came and crashed, changes nothing
// when it is sent again: neither later, nor after the key was changed.
func TestOldPacketsChangeNothing(t *testing.T) {
	first, second := testKeys.Send, gossipkey.Key{2}
	for seed := range uint64(2) {
		within(t, seed, 4, func(w *world) {
			end := w.lan.tap()
			for i := range 2 {
				m := w.members[2+i]
				m.Publish(Local{Interfaces: m.interfaces(), Owned: append(m.owned(), vip4, vip6)})
				time.Sleep(time.Second)
				if i == 0 {
					m.powerOff()
				} else {
					m.cancel() // It takes its leave.
				}
				m.ended()
				time.Sleep(2 * time.Second)
				m.start(w.peers()...)
				w.settle()
			}
			time.Sleep(30 * time.Second) // For memberlist's own exchanges.
			old := end()
			streams := 0
			for _, r := range old {
				if r.stream != nil {
					streams++
				}
			}
			if len(old) < 1000 || streams < 10 {
				t.Fatalf("only %d packets and parts of %d streams were recorded", len(old), streams)
			}
			same := func(when string) {
				before := make([]string, len(w.members))
				for i, m := range w.members {
					before[i] = show(m.Members())
				}
				begun := time.Now()
				changed := ""
				done := make(chan struct{})
				go func() { defer close(done); w.lan.replay(old) }()
				for replaying := true; replaying; time.Sleep(5 * time.Millisecond) {
					for i, m := range w.members {
						if is := show(m.Members()); is != before[i] && changed == "" {
							changed = fmt.Sprintf("%s saw%s\nand sees%s", w.node(m.host), before[i], is)
						}
					}
					select {
					case <-done:
						replaying = false
					default:
					}
				}
				time.Sleep(3 * time.Second)
				if changed != "" || len(w.history.since(begun)) > 0 {
					w.fatal(begun, "%s: %s", when, changed)
				}
				t.Logf("%s: %d packets and parts of %d streams were sent again in %v", when, len(old)-streams, streams, time.Since(begun))
			}
			same("with the same key")
			for _, is := range []gossipkey.Secret{{Key: first, Next: second}, {Key: second, Previous: first}} {
				w.rotate(is, w.members, time.Second)
			}
			same("while the old key is accepted")
			w.rotate(gossipkey.Secret{Key: second}, w.members, time.Second)
			foreign := w.foreign()
			same("with a new key")
			if w.foreign()-foreign < 500 {
				t.Errorf("only %v were foreign", w.foreign()-foreign)
			}
		})
	}
}

// memberlist's own ring never has three keys, and follows each change.
func TestTheRingNeverHasThreeKeys(t *testing.T) {
	keys := []gossipkey.Key{{1}, {2}, {3}, {4}}
	r := newRing(gossipkey.Ring{Send: keys[0]})
	check := func(to gossipkey.Ring) {
		t.Helper()
		r.set(to)
		var want [][]byte
		for _, k := range []gossipkey.Key{to.Send, to.Also} {
			if !k.None() {
				want = append(want, slices.Clone(k[:]))
			}
		}
		if got := r.keys.GetKeys(); !slices.EqualFunc(got, want, func(a, b []byte) bool { return string(a) == string(b) }) {
			t.Fatalf("%v: the ring has %d keys, want %d", to, len(got), len(want))
		}
	}
	for _, from := range keys[:2] {
		for _, also := range []gossipkey.Key{{}, keys[1], keys[0]} {
			for _, send := range keys {
				for _, next := range append(keys, gossipkey.Key{}) {
					if also != from && next != send {
						check(gossipkey.Ring{Send: from, Also: also})
						check(gossipkey.Ring{Send: send, Also: next})
					}
				}
			}
		}
	}
}
