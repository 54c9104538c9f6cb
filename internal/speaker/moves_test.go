package speaker

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/belfrylb/belfry/internal/core"
	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/proof"
)

// moved are moves that are transitions.
func moved(all ...core.Transition) (out []move) {
	for _, t := range all {
		out = append(out, move{Transition: t})
	}
	return out
}

func TestALineSaysWhatHasBecomeOfAddresses(t *testing.T) {
	address := netip.MustParseAddr
	many := func(n int, prefix string) (out []move) {
		for i := range n {
			out = append(out, moved(core.Transition{Address: address(fmt.Sprintf("%s%x", prefix, i)), From: fmt.Sprintf("n%02d", i%12), Silence: time.Duration(i) * time.Millisecond})...)
		}
		return out
	}
	for _, c := range []struct {
		topic topic
		of    []move
		want  string
	}{
		{
			topic{verbs[core.Acquired], core.Unowned.String()},
			moved(core.Transition{Address: address("192.0.2.1"), To: "n1"}),
			`INFO address acquired address=192.0.2.1 cause=Unowned to=n1`,
		},
		{
			topic{verbs[core.Acquired], core.OwnerLost.String()},
			moved(core.Transition{Address: address("2001:db8::1"), From: "n2", To: "n1", Silence: 123456789}),
			`INFO address acquired address=2001:db8::1 cause=OwnerLost from=n2 to=n1 silence=123ms`,
		},
		{
			topic{verbs[core.HandedOver], core.Handover.String()},
			moved(
				core.Transition{Address: address("2001:db8::1"), From: "n1", To: "n3", Held: time.Hour},
				core.Transition{Address: address("192.0.2.1"), From: "n1", To: "n2", Held: time.Minute},
			),
			`INFO addresses handed over count=2 addresses=192.0.2.1 2001:db8::1 cause=Handover from=n1 to=n2 n3 held=1h0m0s`,
		},
		{
			topic{verbs[core.Released], core.NotInUse.String()},
			moved(core.Transition{Address: address("192.0.2.1"), From: "n1", Held: 1500 * time.Millisecond}),
			`INFO address released address=192.0.2.1 cause=NotInUse from=n1 held=1.5s`,
		},
		{
			topic{verbs[core.Withheld], core.ForeignStation.String()},
			moved(core.Transition{Address: address("2001:db8::1"), From: "n1", Station: lb.MAC{2, 0, 0, 0, 0, 9}}),
			`WARN address withheld address=2001:db8::1 cause=ForeignStation from=n1 mac=02:00:00:00:00:09`,
		},
		{
			topic{verb: verbGivenUp},
			moved(core.Transition{Address: address("2001:db8::1")}),
			`INFO address given up by another speaker address=2001:db8::1`,
		},
		{
			topic{verb: verbUsed},
			moved(
				core.Transition{Address: address("192.0.2.1"), Station: lb.MAC{2, 0, 0, 0, 0, 9}},
				core.Transition{Address: address("192.0.2.2"), Station: lb.MAC{2, 0, 0, 0, 0, 8}},
			),
			`WARN addresses used by a foreign station count=2 addresses=192.0.2.1-2 mac=02:00:00:00:00:08 02:00:00:00:00:09`,
		},
		{
			topic{verbWrong, proof.AnsweredTwice.String()},
			moved(
				core.Transition{Address: address("192.0.2.1"), To: "n1", From: "n2", Station: lb.MAC{2, 0, 0, 0, 0, 9}},
				core.Transition{Address: address("192.0.2.1"), To: "n1", From: "n3", Station: lb.MAC{2, 0, 0, 0, 0, 8}},
			),
			`WARN address verified wrong address=192.0.2.1 cause=AnsweredTwice from=n2 n3 to=n1 mac=02:00:00:00:00:08 02:00:00:00:00:09`,
		},
		{
			topic{verbRight, proof.Unanswered.String()},
			[]move{{core.Transition{Address: address("2001:db8::1"), To: "n1"}, 90 * time.Second}},
			`INFO address verified again address=2001:db8::1 cause=Unanswered to=n1 lasted=1m30s`,
		},
		{
			topic{verbs[core.Acquired], core.OwnerLost.String()},
			many(256, "2001:db8::"),
			`INFO addresses acquired count=256 addresses=2001:db8::-ff cause=OwnerLost from=n00 n01 n02 n03 n04 n05 n06 n07 ... silence=255ms`,
		},
	} {
		message, attributes := line(c.topic, c.of)
		got := []string{c.topic.level().String(), message}
		for _, a := range attributes {
			got = append(got, a.String())
		}
		if is := strings.Join(got, " "); is != c.want {
			t.Errorf("%s\nwant\n%s", is, c.want)
		}
	}
}

func TestTheLogTellsOfEachMove(t *testing.T) {
	inWorld(t, []string{"a", "b"}, func(t *testing.T, w *fakeWorld) {
		is := func(when, node string, want ...string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			w.rest()
			if got := w.node(node).log.about("address"); !slices.Equal(got, want) {
				t.Errorf("%s, %s says\n%s\nwant\n%s", when, node, strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		}
		w.startOn("a")
		is("at first", "a", `level=INFO msg="addresses acquired" count=2 addresses="192.0.2.1 2001:db8::1" cause=Unowned to=a`)
		is("at first", "b")
		w.cluster.edit(on("b"))
		is("placed elsewhere", "a", `level=INFO msg="addresses handed over" count=2 addresses="192.0.2.1 2001:db8::1" cause=Handover from=a to=b held=4.845s`)
		is("placed elsewhere", "b", `level=INFO msg="addresses acquired" count=2 addresses="192.0.2.1 2001:db8::1" cause=Handover from=a to=b`,
			`level=INFO msg="addresses given up by another speaker" count=2 addresses="192.0.2.1 2001:db8::1"`)
		w.crash("b")
		is("crashed", "a", `level=INFO msg="addresses acquired" count=2 addresses="192.0.2.1 2001:db8::1" cause=OwnerLost from=b to=a`)
	})
}

// A node that goes has a thousand addresses to hand over; who reads the log at night
// wants to know that it did, not to read it a thousand times.
func TestAThousandAddressesThatMoveAreAFewLines(t *testing.T) {
	inWorld(t, []string{"a", "b", "c"}, func(t *testing.T, w *fakeWorld) {
		w.cluster.edit(only("a"))
		w.cluster.edit(func(s *lb.Snapshot) {
			one := s.Services[0]
			for i := range 500 {
				more := one
				more.Key.Name = fmt.Sprintf("more%d", i)
				more.Assigned = []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2 + byte(1+i/256), byte(i)}), netip.MustParseAddr(fmt.Sprintf("2001:db8::1:%x", i))}
				s.Services = append(s.Services, more)
			}
		})
		w.start()
		w.cluster.edit(anybody)
		w.rest()
		for _, n := range w.nodes {
			n.log.about("")
		}
		w.node("a").stop()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		total := func(node string) (count, lines int) {
			for _, l := range w.node(node).log.about("address") {
				n := 1
				if _, many, is := strings.Cut(l, " count="); is {
					if _, err := fmt.Sscan(many, &n); err != nil {
						t.Fatal(err)
					}
				}
				lines++
				if strings.Contains(l, "handed over") || strings.Contains(l, "acquired") {
					count += n
				}
			}
			return count, lines
		}
		given, lines := total("a")
		if given != 1002 || lines > 5 {
			t.Errorf("a tells of %d addresses that it handed over in %d lines", given, lines)
		}
		b, linesB := total("b")
		c, linesC := total("c")
		if b+c != 1002 || linesB > 5 || linesC > 5 {
			t.Errorf("b tells of %d addresses in %d lines, c of %d in %d", b, linesB, c, linesC)
		}
	})
}
