package kube

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// at is an object at a version, written "name@version" or "name@version#uid".
func at(text string) any {
	name, version, _ := strings.Cut(text, "@")
	version, uid, found := strings.Cut(version, "#")
	if !found {
		uid = "1"
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: version, UID: types.UID(uid)}}
}

func all(texts ...string) []any {
	var out []any
	for _, t := range texts {
		out = append(out, at(t))
	}
	return out
}

// A record is a table with all it has reported.
type record struct {
	*table[string]
	news   []string
	loads  int
	errors []error
}

func newRecord() *record {
	r := &record{}
	show := func(w *row[string]) string {
		if w == nil {
			return "-"
		}
		return w.value
	}
	r.table = newTable(&sync.Mutex{}, func(o any) (string, error) {
		m := o.(*metav1.PartialObjectMetadata)
		if m.Name == "bad" {
			return "", fmt.Errorf("cannot be understood")
		}
		if m.Name == "worse" {
			panic("cannot be understood at all")
		}
		return m.Name + "@" + m.ResourceVersion, nil
	}, func(was, is *row[string]) { r.news = append(r.news, show(was)+" > "+show(is)) }, func() { r.loads++ })
	return r
}

func (r *record) do(err error) { r.errors = append(r.errors, err) }

func (r *record) holds() string {
	var out []string
	for _, w := range r.rows {
		out = append(out, w.value)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func TestTableKeepsTheNewestOfWatchAndAnswers(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*record)
		want string
		news []string
	}{
		{
			"the watch catches up with an answer, silently",
			func(r *record) { r.Add(at("a@5")); r.Answer(at("a@7")); r.Update(at("a@7")) },
			"a@7",
			[]string{"- > a@5", "a@5 > a@7"},
		},
		{
			"the watch is behind an answer",
			func(r *record) { r.Add(at("a@5")); r.Answer(at("a@10")); r.Update(at("a@9")) },
			"a@10",
			[]string{"- > a@5", "a@5 > a@10"},
		},
		{
			"the watch is ahead of an answer",
			func(r *record) { r.Add(at("a@5")); r.Update(at("a@10")); r.Answer(at("a@9")) },
			"a@10",
			[]string{"- > a@5", "a@5 > a@10"},
		},
		{
			"an answer does not bring back what was deleted",
			func(r *record) { r.Add(at("a@5")); r.Delete(at("a@8")); r.Answer(at("a@7")) },
			"",
			[]string{"- > a@5", "a@5 > -"},
		},
		{
			"an answer about a namesake is not believed",
			func(r *record) { r.Add(at("a@5#1")); r.Answer(at("a@9#2")) },
			"a@5",
			[]string{"- > a@5"},
		},
		{
			"a deletion from before an answer was of a namesake",
			func(r *record) { r.Add(at("a@5")); r.Answer(at("a@9")); r.Delete(at("a@6")) },
			"a@9",
			[]string{"- > a@5", "a@5 > a@9"},
		},
		{
			"a list keeps what an answer has shown to be newer",
			func(r *record) { r.Add(at("a@5")); r.Answer(at("a@9")); r.Replace(all("a@5", "b@6"), "8") },
			"a@9 b@6",
			[]string{"- > a@5", "a@5 > a@9", "- > b@6"},
		},
		{
			"a list removes what it lacks",
			func(r *record) { r.Add(at("a@5")); r.Add(at("b@6")); r.Replace(all("b@6"), "8") },
			"b@6",
			[]string{"- > a@5", "- > b@6", "a@5 > -"},
		},
		{
			"a list after etcd was restored to an earlier state counts",
			func(r *record) { r.Add(at("a@500")); r.Replace(all("a@7", "b@6"), "8") },
			"a@7 b@6",
			[]string{"- > a@500", "a@500 > a@7", "- > b@6"},
		},
		{
			"nor does what an answer has shown before that",
			func(r *record) {
				r.Add(at("a@500"))
				r.Add(at("c@501"))
				r.Answer(at("a@600"))
				r.Answer(at("c@601"))
				r.Replace(all("a@7", "b@6"), "8")
				r.Update(at("a@9"))
				r.Answer(at("b@10"))
			},
			"a@9 b@10",
			[]string{"- > a@500", "- > c@501", "a@500 > a@600", "c@501 > c@601", "c@601 > -", "a@600 > a@7", "- > b@6", "a@7 > a@9", "b@6 > b@10"},
		},
		{
			"a kind that is gone has no objects",
			func(r *record) { r.Add(at("a@5")); r.Answer(at("a@9")); r.clear(); r.Add(at("a@11")) },
			"a@11",
			[]string{"- > a@5", "a@5 > a@9", "a@9 > -", "- > a@11"},
		},
		{
			"one bad object does not hide the others",
			func(r *record) { r.Replace(all("a@5", "bad@6", "worse@7", "c@8"), "8"); r.do(r.Add(at("bad@9"))) },
			"a@5 c@8",
			[]string{"- > a@5", "- > c@8"},
		},
		{
			"a consistent list brings what the watch has not shown yet",
			func(r *record) { r.Replace(all("a@5"), "6"); r.CatchUp(all("a@8", "b@7"), "9") },
			"a@8 b@7",
			[]string{"- > a@5", "a@5 > a@8", "- > b@7"},
		},
		{
			"it does not bring back what the watch has shown to be gone",
			func(r *record) {
				r.Replace(all("a@5", "b@6"), "6")
				r.Delete(at("b@12"))
				r.CatchUp(all("a@5", "b@6"), "9")
			},
			"a@5",
			[]string{"- > a@5", "- > b@6", "b@6 > -"},
		},
		{
			"the watch follows after a consistent list",
			func(r *record) {
				r.Replace(all("a@5"), "6")
				r.CatchUp(all("a@5", "b@7"), "9")
				r.Add(at("b@7"))
				r.Delete(at("b@10"))
			},
			"a@5",
			[]string{"- > a@5", "- > b@7", "b@7 > -"},
		},
	} {
		r := newRecord()
		c.do(r)
		if got := r.holds(); got != c.want {
			t.Errorf("%s: holds %q, want %q", c.name, got, c.want)
		}
		slices.Sort(r.news)
		slices.Sort(c.news)
		if !slices.Equal(r.news, c.news) {
			t.Errorf("%s: reported %q, want %q", c.name, r.news, c.news)
		}
	}
}

func TestTableReportsBadObjectsByName(t *testing.T) {
	r := newRecord()
	for _, name := range []string{"bad", "worse"} {
		if err := r.Add(at(name + "@1")); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("Add(%s): %v", name, err)
		}
	}
}

func TestTableIsLoadedByItsFirstList(t *testing.T) {
	r := newRecord()
	r.Replace(nil, "3")
	r.Replace(all("a@5"), "6")
	if r.loads != 1 {
		t.Errorf("loaded %d times", r.loads)
	}
}

func TestTableTakesWhatIsReducedAlready(t *testing.T) {
	// A list that streams in is reduced object by object, and then replaces.
	r := newRecord()
	reduced, err := r.Transformer()(at("a@5"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := r.Transformer()(reduced)
	if err != nil || again != reduced {
		t.Errorf("reducing twice gives %v, %v", again, err)
	}
	r.Replace([]any{reduced}, "6")
	if got := slices.Collect(maps.Keys(r.rows)); len(got) != 1 || got[0].Name != "a" {
		t.Errorf("holds %v", got)
	}
	if m := reduced.(*row[string]).GetObjectMeta(); m.GetName() != "a" || m.GetResourceVersion() != "5" {
		t.Errorf("a row says it is %s at %s", m.GetName(), m.GetResourceVersion())
	}
}
