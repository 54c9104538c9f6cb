package quarantine

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/belfrylb/belfry/internal/lb"
	"github.com/belfrylb/belfry/internal/lb/lbtest"
)

func services(n int) []lb.Service {
	out := make([]lb.Service, n)
	for i := range out {
		out[i].Key = lb.ServiceKey{Namespace: "default", Name: fmt.Sprintf("s%04d", i)}
	}
	return out
}

// panics returns a decision that panics where some Services are all there, as any of
// these sets says.
func panics(calls *int, sets ...[]string) func([]lb.Service) {
	return func(all []lb.Service) {
		*calls++
		there := map[string]bool{}
		for _, s := range all {
			there[s.Key.Name] = true
		}
		for _, set := range sets {
			if !slices.ContainsFunc(set, func(name string) bool { return !there[name] }) {
				panic(fmt.Sprint(set))
			}
		}
	}
}

func TestSearchFindsWhatADecisionPanicsOver(t *testing.T) {
	all := services(1000)
	for _, c := range []struct {
		what  string
		sets  [][]string
		found []int
		calls int
	}{
		{"nothing", nil, nil, 1},
		{"the first", [][]string{{"s0000"}}, []int{0}, 13},
		{"the last", [][]string{{"s0999"}}, []int{999}, 13},
		{"three", [][]string{{"s0700"}, {"s0003"}, {"s0004"}}, []int{3, 4, 700}, 40},
		{"one beside another", [][]string{{"s0001", "s0500"}}, []int{500}, 13},
		{"one that is always beside one of two", [][]string{{"s0001", "s0500"}, {"s0002", "s0500"}}, []int{500}, 13},
		{"none of them", [][]string{{}}, nil, 2},
	} {
		calls := 0
		if got := Search(all, panics(&calls, c.sets...)); !slices.Equal(got, c.found) {
			t.Errorf("%s: %v, want %v", c.what, got, c.found)
		}
		if calls > c.calls {
			t.Errorf("%s: %d decisions, want %d at most", c.what, calls, c.calls)
		}
	}
	if got := Search(nil, func([]lb.Service) { panic("always") }); got != nil {
		t.Errorf("of nothing: %v", got)
	}
}

// Without what is found the decision survives, and with any one of it besides it does
// not, whatever it panics over.
func TestSearchFindsNoMoreThanItMust(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		all := services(1 + r.IntN(40))
		var sets [][]string
		for range r.IntN(4) {
			set := make([]string, 1+r.IntN(2))
			for i := range set {
				set[i] = all[r.IntN(len(all))].Key.Name
			}
			sets = append(sets, set)
		}
		calls := 0
		decide := panics(&calls, sets...)
		found := Search(all, decide)
		without := func(but int) (out []lb.Service) {
			for i, s := range all {
				if i == but || !slices.Contains(found, i) {
					out = append(out, s)
				}
			}
			return out
		}
		if !survives(without(-1), decide) {
			t.Fatalf("seed %d: it still panics over %v without %v", seed, sets, found)
		}
		for _, i := range found {
			if survives(without(i), decide) && !slices.ContainsFunc(sets, func(set []string) bool { return slices.Contains(set, all[i].Key.Name) }) {
				t.Errorf("seed %d: %v does nothing", seed, all[i].Key)
			}
		}
	}
}

func TestAServiceThatIsSetAsideStaysAsItWas(t *testing.T) {
	sick := func(all []lb.Service) {
		for _, s := range all {
			_, isSick := s.Labels.Get("sick")
			if _, cured := s.Labels.Get("cured"); isSick && !cured {
				panic(s.Key)
			}
		}
	}
	label := func(s lb.Service, key string) lb.Service {
		labels := lbtest.LabelMap(s.Labels)
		labels[key] = "yes"
		s.Labels = lb.LabelsOf(labels)
		return s
	}
	before := services(5)
	now := slices.Clone(before)
	now[1] = label(now[1], "sick")
	now[3] = label(now[3], "sick")
	var w Ward
	if got := w.Treat(now); !slices.EqualFunc(got, now, same) {
		t.Errorf("an empty ward changes %v", got)
	}
	// The one was there before, the other was not.
	admitted := w.Admit(now, slices.Delete(slices.Clone(before), 3, 4), sick)
	if fmt.Sprint(admitted) != fmt.Sprint([]lb.ServiceKey{now[1].Key, now[3].Key}) || fmt.Sprint(w.Names()) != fmt.Sprint(admitted) {
		t.Fatalf("%v are set aside: %v", admitted, w.Names())
	}
	want := slices.Delete(slices.Clone(before), 3, 4)
	if got := w.Treat(now); !slices.EqualFunc(got, want, same) {
		t.Errorf("%v\nwant\n%v", got, want)
	}
	// What is told of it is no change; its owner's edit is, and so is its end.
	told := slices.Clone(now)
	told[1].Announced = true
	if got := w.Treat(told); !slices.EqualFunc(got, want, same) {
		t.Errorf("told: %v\nwant\n%v", got, want)
	}
	cured := slices.Clone(now[:3])
	cured[1] = label(cured[1], "cured")
	if got := w.Treat(cured); !slices.EqualFunc(got, cured, same) || len(w.Names()) != 0 {
		t.Errorf("cured: %v, %v", got, w.Names())
	}
}

// What it was before is of no use where that panics now: it is left out.
func TestAServiceThatWasNeverWellIsLeftOut(t *testing.T) {
	all := services(3)
	calls := 0
	var w Ward
	if got := w.Admit(all, all, panics(&calls, []string{"s0001"})); len(got) != 1 || got[0] != all[1].Key {
		t.Fatalf("%v", got)
	}
	if got := w.Treat(all); len(got) != 2 || got[0].Key != all[0].Key || got[1].Key != all[2].Key {
		t.Errorf("%v", got)
	}
	// Another one falls ill: the first stays where it is.
	if got := w.Admit(all, all, panics(&calls, []string{"s0001"}, []string{"s0002"})); len(got) != 1 || got[0] != all[2].Key || len(w.Names()) != 2 {
		t.Errorf("%v, %v", got, w.Names())
	}
}

func same(a, b lb.Service) bool { return edition(a) == edition(b) && a.Announced == b.Announced }
