package membership

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/belfrylb/belfry/internal/election"
)

// Times on the virtual clock do not depend on how busy the machine is, so these
// tests judge them.

func TestAHostWithoutPowerIsGivenUpByAllWellUnderASecond(t *testing.T) {
	for _, c := range []struct {
		name         string
		seed         uint64
		size, trials int
	}{{"3, IPv4", 1, 3, 20}, {"3, IPv6", 2, 3, 20}, {"10", 3, 10, 10}, {"30, IPv6", 4, 30, 3}} {
		t.Run(c.name, func(t *testing.T) {
			within(t, c.seed, c.size, func(w *world) {
				begun := time.Now()
				var took times
				for range c.trials {
					took = append(took, w.losePower(w.some(1))...)
				}
				slices.Sort(took)
				t.Log(took)
				if took.at(.5) > 600*time.Millisecond || took.at(1) > 1500*time.Millisecond {
					w.fatal(begun, "%v", took)
				}
			})
		})
	}
}

func TestARackIsGivenUpAndFoundAgain(t *testing.T) {
	for _, seed := range []uint64{1, 2} {
		within(t, seed, 12, func(w *world) {
			took, healed := w.loseRack(w.some(4))
			t.Logf("%v; healed after %v", took, healed)
		})
	}
}

func TestAnIsolatedMembersClaimsAreTheLesserOnes(t *testing.T) {
	// With Pace.Sure of half a second one in fifteen was sure of a majority in between.
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		vip := []netip.Addr{vip4, vip6}[seed%2]
		within(t, seed, 5, func(w *world) {
			lonely, owner := w.members[0], w.members[1]
			local := func(m *virtual, owned ...netip.Addr) {
				m.Publish(Local{Interfaces: m.interfaces(), Owned: owned})
			}
			of := func(m, by *virtual) election.Claim {
				o, _ := find(by.Members(), w.node(m.host))
				return o.Claims[vip]
			}
			local(owner, vip)
			w.await("the claim", time.Second, func() bool { return !of(owner, lonely).None() })
			w.lan.separate(func(a, b netip.Addr) bool { return a == w.addr(0) || b == w.addr(0) })
			// It claims as soon as it misses the owner, and loses the others one after the
			// other, up to 640 ms apart. It must be sure of no majority in between.
			w.await("the loss of the owner", 5*time.Second, func() bool { return without(w.node(owner.host))(lonely.Members()) })
			local(lonely, vip)
			w.await("a claim of it alone", 5*time.Second, func() bool { return len(lonely.Members()) == 1 && !of(lonely, lonely).None() })
			if mine := of(lonely, lonely); mine.Quorum != election.Minority {
				t.Errorf("seed %d: isolated, it claims by %v", seed, mine)
			}
			w.lan.separate(nil)
			w.await("both claims", 2*time.Second, func() bool { return !of(lonely, owner).None() && !of(owner, lonely).None() })
			if mine, theirs := of(lonely, lonely), of(owner, lonely); mine.Beats(theirs, vip, w.node(0), w.node(1)) {
				t.Errorf("seed %d: the isolated node's %v beats the owner's %v", seed, mine, theirs)
			}
			// It does not forget that while the claim is contested, but may once it is not.
			local(owner)
			w.await("the claim settled", 3*time.Second, func() bool { return of(lonely, lonely).Quorum == election.Majority })
		})
	}
}

// What a member missed of a refutation, nobody tells it again: it has to ask.
func TestNobodyIsGivenUpBecausePacketsAreLost(t *testing.T) {
	for _, c := range []struct {
		seed uint64
		size int
		loss float64
		rest time.Duration
	}{{1, 3, .05, 2 * time.Minute}, {2, 3, .1, 2 * time.Minute}, {3, 10, .05, 30 * time.Second}, {4, 10, .2, 15 * time.Second}, {5, 30, .1, 5 * time.Second}} {
		t.Run(fmt.Sprintf("%d, %v", c.size, c.loss), func(t *testing.T) {
			within(t, c.seed, c.size, func(w *world) {
				w.lan.lose(c.loss)
				begun := time.Now()
				r := w.rest(c.rest)
				t.Log(r)
				if r.wrong > 0 {
					w.fatal(begun, "%d members were given up that live", r.wrong)
				}
			})
		})
	}
}

func TestNobodyIsGivenUpWhoIsStoppedForASecond(t *testing.T) {
	for _, c := range []struct {
		seed uint64
		size int
		loss float64
	}{{1, 3, 0}, {2, 3, .05}, {3, 10, 0}, {4, 10, .05}, {6, 30, 0}} {
		t.Run(fmt.Sprintf("%d, %v", c.size, c.loss), func(t *testing.T) {
			within(t, c.seed, c.size, func(w *world) {
				w.lan.lose(c.loss)
				begun := time.Now()
				for _, pause := range pauses {
					w.members[w.some(1)[0]].stopFor(pause)
					time.Sleep(pause + time.Second)
				}
				if wrong := w.wronged(begun); len(wrong) > 0 {
					w.fatal(begun, "%d members were given up that live", len(wrong))
				}
				w.settle()
			})
		})
	}
}

// pauses are for how long processes are stopped.
var pauses = []time.Duration{100 * time.Millisecond, 500 * time.Millisecond, time.Second}

// Times are how long things took, ascending.
type times []time.Duration

// at returns what so great a share did not exceed.
func (t times) at(share float64) time.Duration {
	if len(t) == 0 {
		return -1
	}
	return t[int(math.Ceil(share*float64(len(t)-1)))]
}

func (t times) String() string {
	ms := func(share float64) time.Duration { return t.at(share).Round(time.Millisecond) }
	return fmt.Sprintf("median %v, 99 %% within %v, worst %v", ms(.5), ms(.99), ms(1))
}

// fail makes a fault and returns after how long each of the others, all told, had
// given up each victim.
func (w *world) fail(victims []int, fault func()) times {
	w.t.Helper()
	begun := time.Now()
	fault()
	want := len(victims) * (len(w.members) - len(victims))
	gone := map[[2]int]time.Duration{}
	w.await(fmt.Sprintf("that all others give up %v", victims), time.Minute, func() bool {
		for _, e := range w.history.since(begun) {
			v := host(e.of)
			if e.what != sawGone || !slices.Contains(victims, v) || slices.Contains(victims, e.by) {
				continue
			}
			if _, before := gone[[2]int{e.by, v}]; !before {
				gone[[2]int{e.by, v}] = e.at.Sub(begun)
			}
		}
		return len(gone) == want
	})
	return slices.Sorted(maps.Values(gone))
}

// losePower takes the power of hosts at one moment, and returns how long it took
// the others to give them up. Then the hosts return.
func (w *world) losePower(victims []int) times {
	w.t.Helper()
	took := w.fail(victims, func() {
		for _, v := range victims {
			w.members[v].powerOff()
		}
	})
	for _, v := range victims {
		w.members[v].ended()
		w.members[v].start(w.peers()...)
	}
	w.settle()
	return took
}

// loseRack cuts hosts off from the others, and returns how long it took those to
// give them up, and how long until all have found all again when it ends.
func (w *world) loseRack(rack []int) (took times, healed time.Duration) {
	w.t.Helper()
	in := map[netip.Addr]bool{}
	for _, h := range rack {
		in[w.addr(h)] = true
	}
	took = w.fail(rack, func() {
		w.lan.separate(func(a, b netip.Addr) bool { return in[a] != in[b] })
	})
	time.Sleep(time.Second)
	w.lan.separate(nil)
	return took, w.settle()
}

// some returns so many different hosts.
func (w *world) some(n int) []int { return w.rand.Perm(len(w.members))[:n] }

func host(node string) int {
	h, err := strconv.Atoi(strings.TrimPrefix(node, "node-"))
	if err != nil {
		return -1
	}
	return h
}

// wronged returns who was given up since then, but for and by the victims.
func (w *world) wronged(since time.Time, victims ...int) (wrong []event) {
	for _, e := range w.history.since(since) {
		if e.what == sawGone && !slices.Contains(victims, host(e.of)) && !slices.Contains(victims, e.by) {
			wrong = append(wrong, e)
		}
	}
	return wrong
}

// A rest is what each member spent in a second in which nothing happened, and how
// often one was doubted and given up by another meanwhile, all told.
type rest struct {
	packets, bytes, cpu float64
	doubts, wrong       int
}

func (r rest) String() string {
	return fmt.Sprintf("each %.1f packets/s, %.0f B/s, %.3f %% CPU; %d doubts, %d wrong", r.packets, r.bytes, 100*r.cpu, r.doubts, r.wrong)
}

func (w *world) rest(d time.Duration) rest {
	begun := time.Now()
	var ends []*endpoint
	for _, m := range w.members {
		ends = append(ends, m.end)
	}
	r := measureRest(ends, d)
	for _, e := range w.history.since(begun) {
		if e.what == sawSuspect {
			r.doubts++
		}
	}
	r.wrong = len(w.wronged(begun))
	return r
}

func measureRest(ends []*endpoint, d time.Duration) rest {
	var packets, bytes int64
	count := func(sign int64) {
		for _, e := range ends {
			packets += sign * e.spent.packets.Load()
			bytes += sign * e.spent.bytes.Load()
		}
	}
	count(-1)
	cpu := processorTime()
	time.Sleep(d)
	cpu = processorTime() - cpu
	count(1)
	each := d.Seconds() * float64(len(ends))
	return rest{packets: float64(packets) / each, bytes: float64(bytes) / each, cpu: cpu.Seconds() / each}
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var (
	sizes  = flag.String("sizes", "", "measure clusters of so many members on a virtual clock, such as 3,100,300")
	trials = flag.Int("trials", 20, "how often a host loses its power for that; what concerns many hosts is done a quarter as often")
	seed   = flag.Uint64("seed", 1, "the seed of chance for that")
)

// TestScale measures clusters of the sizes that a flag names, and prints what it
// found as benchmarks do. How goroutines follow each other is up to Go, so a seed
// makes runs alike and not the same.
func TestScale(t *testing.T) {
	if *sizes == "" {
		t.Skip("this measures, for go run ./hack/bench --only gossip; it wants -sizes")
	}
	for text := range strings.SplitSeq(*sizes, ",") {
		size, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		f := figures{t: t, size: size}
		within(t, *seed, size, f.measure)
		synctest.Test(t, func(t *testing.T) {
			r := newRival(t, size)
			defer r.stop()
			spent, took := r.measure()
			f.rest("lan-", spent)
			f.times("lan-one", took)
		})
		fmt.Println(f.line())
	}
}

// figures are what was measured of one size.
type figures struct {
	t      *testing.T
	size   int
	values []string
}

func (f *figures) add(value float64, unit string) {
	f.values = append(f.values, fmt.Sprintf("%.5g %s", value, unit))
}

func (f *figures) times(name string, took times) {
	slices.Sort(took)
	f.t.Logf("%d, %s: %v", f.size, name, took)
	f.add(took.at(.5).Seconds(), name+"-median")
	f.add(took.at(.99).Seconds(), name+"-99")
	f.add(took.at(1).Seconds(), name+"-worst")
}

func (f *figures) rest(name string, r rest) {
	f.t.Logf("%d, %sat rest: %v", f.size, name, r)
	f.add(r.packets, name+"packets/s")
	f.add(r.bytes, name+"B/s")
	f.add(100*r.cpu, name+"%cpu")
}

func (f *figures) line() string {
	return fmt.Sprintf("BenchmarkScale/%d 1 %s", f.size, strings.Join(f.values, " "))
}

func (f *figures) measure(w *world) {
	few := (*trials + 3) / 4
	f.rest("", w.rest(3*time.Second))
	var one, tenth, third, heal times
	for range *trials {
		one = append(one, w.losePower(w.some(1))...)
	}
	f.times("one", one)
	if f.size >= 10 {
		for range few {
			tenth = append(tenth, w.losePower(w.some(f.size/10))...)
			took, healed := w.loseRack(w.some(f.size / 3))
			third, heal = append(third, took...), append(heal, healed)
		}
		f.times("tenth", tenth)
		f.times("third", third)
		f.times("heal", heal)
	}
	wrong := 0
	for _, loss := range []float64{0, .01, .05, .1} {
		w.lan.lose(loss)
		begun := time.Now()
		if loss > 0 {
			f.rest(fmt.Sprintf("loss-%v-", loss), w.rest(3*time.Second))
		}
		for range few {
			for _, pause := range pauses {
				w.members[w.some(1)[0]].stopFor(pause)
				time.Sleep(pause + time.Second)
			}
		}
		n := len(w.wronged(begun))
		f.t.Logf("%d, loss %v: %d given up that live\n%s", f.size, loss, n, w.history.wrong(begun))
		f.add(float64(n), fmt.Sprintf("loss-%v-wrong", loss))
		wrong += n
		if loss == .05 {
			one = nil
			for range few {
				one = append(one, w.losePower(w.some(1))...)
			}
			f.times("loss-0.05-one", one)
		}
	}
	f.add(float64(wrong), "wrong")
}
