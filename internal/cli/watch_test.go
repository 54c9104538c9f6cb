package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/belfrylb/belfry/internal/world"
)

// worldOf is the healthy cluster with what other objects make of it.
func worldOf(t *testing.T, others ...string) *world.World {
	t.Helper()
	s := &store{}
	for _, name := range append([]string{"healthy"}, others...) {
		if err := readFiles(s, "testdata/"+name+".yaml", nil); err != nil {
			t.Fatal(err)
		}
	}
	return s.world(world.Settings{}, s.moment())
}

// pressed is a key as the terminal tells it.
func pressed(t *testing.T, name string) tea.KeyPressMsg {
	t.Helper()
	k, is := map[string]tea.KeyPressMsg{
		"tab": {Code: tea.KeyTab}, "shift+tab": {Code: tea.KeyTab, Mod: tea.ModShift}, "left": {Code: tea.KeyLeft}, "right": {Code: tea.KeyRight},
		"up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown}, "pgup": {Code: tea.KeyPgUp}, "pgdown": {Code: tea.KeyPgDown},
		"home": {Code: tea.KeyHome}, "end": {Code: tea.KeyEnd}, "ctrl+c": {Code: 'c', Mod: tea.ModCtrl},
	}[name]
	if !is {
		k = tea.KeyPressMsg{Code: rune(name[0]), Text: name}
	}
	if k.String() != name {
		t.Fatalf("the key %s is called %s", name, k.String())
	}
	return k
}

// A viewer plays a transcript of the live view.
type viewer struct {
	*testing.T
	*live
}

// do does what a line says and returns what is seen then.
func (v *viewer) do(line string) (sees string) {
	v.Helper()
	f := strings.Fields(line)
	send := func(m tea.Msg) tea.Cmd {
		_, cmd := v.Update(m)
		return cmd
	}
	switch f[0] {
	case "world":
		p := worldOf(v.T, f[1:]...).Picture()
		if v.live == nil {
			v.live = &live{screen: screen{picture: p, now: p.At}}
		} else {
			send(update{p, ""})
		}
	case "size":
		var width, height int
		if _, err := fmt.Sscan(strings.Join(f[1:], " "), &width, &height); err != nil {
			v.Fatal(err)
		}
		send(tea.WindowSizeMsg{Width: width, Height: height})
	case "press":
		for _, name := range f[1:] {
			if cmd := send(pressed(v.T, name)); cmd != nil {
				if _, quits := cmd().(tea.QuitMsg); quits {
					sees += "|quits\n"
				}
			}
		}
	case "pass":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			v.Fatal(err)
		}
		send(tick(v.now.Add(d)))
	case "trouble":
		send(update{v.picture, strings.Join(f[1:], " ")})
	case "draw":
		lines := strings.Split(v.View().Content, "\n")
		if len(lines) > v.height {
			v.Errorf("%d lines on a screen of %d", len(lines), v.height)
		}
		for _, l := range lines {
			if n := utf8.RuneCountInString(l); n > v.width {
				v.Errorf("%d columns on a screen of %d: %s", n, v.width, l)
			}
			sees += strings.TrimRight("|"+l, " ") + "\n"
		}
	default:
		v.Fatalf("what is %q?", line)
	}
	return sees
}

// What is seen of each world, and what keys, time and the terminal change about it.
func TestTheLiveViewShows(t *testing.T) {
	files, err := filepath.Glob("testdata/watch/*.txt")
	if err != nil || len(files) < 3 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			v := &viewer{T: t}
			var out strings.Builder
			for line := range strings.Lines(string(text)) {
				if strings.HasPrefix(line, "|") {
					continue
				}
				out.WriteString(line)
				if command, is := strings.CutPrefix(line, "> "); is {
					out.WriteString(v.do(command))
				}
			}
			golden(t, file, out.String())
		})
	}
}

// Every world fits into terminals of all sizes, and is the same with and without color but
// for the colors.
func TestTheLiveViewFits(t *testing.T) {
	worlds, err := filepath.Glob("testdata/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range worlds {
		p := worldOf(t, strings.TrimSuffix(filepath.Base(file), ".yaml")).Picture()
		for _, size := range [][2]int{{100, 40}, {80, 24}, {40, 10}, {100, 5}, {20, 2}, {1, 1}, {0, 0}, {200, 3}} {
			for tab := range 6 {
				l := &live{screen: screen{picture: p, now: p.At, tab: tab}}
				l.Update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
				l.Update(pressed(t, "end"))
				plain := l.View().Content
				lines := strings.Split(plain, "\n")
				if len(lines) > max(size[1], 1) {
					t.Errorf("%s: %d lines in %v", file, len(lines), size)
				}
				for _, text := range lines {
					if utf8.RuneCountInString(text) > size[0] {
						t.Errorf("%s: %q in %v", file, text, size)
					}
				}
				if strings.Contains(plain, "\x1b") {
					t.Errorf("%s: color where none is wanted", file)
				}
				l.colors = true
				var bare strings.Builder
				for i, part := range strings.Split(l.View().Content, "\x1b[") {
					if i > 0 {
						_, part, _ = strings.Cut(part, "m")
					}
					bare.WriteString(part)
				}
				if bare.String() != plain {
					t.Errorf("%s: with color it says\n%s\nand without\n%s", file, bare.String(), plain)
				}
			}
		}
	}
}

// What a key among ten thousand addresses costs (docs/design/live-view.md).
func BenchmarkTheLiveViewOfManyAddresses(b *testing.B) {
	p := &world.Picture{Status: &world.Status{}}
	for i := range 10_000 {
		p.Addresses = append(p.Addresses, world.AddressPicture{Services: []string{fmt.Sprintf("web/s%d", i)}, Nodes: []string{"n1"}, Told: "Verified", Well: true})
	}
	l := &live{screen: screen{picture: p, tab: 2}}
	l.Update(tea.WindowSizeMsg{Width: 100, Height: 40})
	for b.Loop() {
		l.Update(tea.KeyPressMsg{Code: tea.KeyDown})
		l.View()
	}
}

func TestWatchNeedsATerminalAndACluster(t *testing.T) {
	for args, has := range map[string]string{
		"watch":                                  "watch needs a terminal, and the output is none: use kubectl belfry status",
		"watch --from testdata/healthy.yaml":     "nothing happens in a dump",
		"events -w --from testdata/healthy.yaml": "nothing happens in a dump",
	} {
		if out, code := run(t, "", strings.Fields(args)...); code != CannotLook || !strings.Contains(out, has) {
			t.Errorf("%s ends with %d:\n%s", args, code, out)
		}
	}
}

// A scripted API server gives its replies, one to each request, in order; the request that
// comes after the last waits until it is given up.
type scripted struct {
	*testing.T
	all   []reply
	asked []string
}

type reply struct {
	code int
	body string
}

// RoundTrip answers a request.
func (a *scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	q := r.URL.Query()
	what := "list"
	if q.Get("watch") == "true" {
		what = "watch from " + q.Get("resourceVersion")
	}
	a.asked = append(a.asked, what)
	if q.Get("fieldSelector") != "a=b" {
		a.Errorf("%s is asked with %v", what, q)
	}
	if len(a.all) == 0 {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	next := a.all[0]
	a.all = a.all[1:]
	return &http.Response{
		StatusCode: next.code, Header: http.Header{"Content-Type": []string{"application/json"}}, Body: io.NopCloser(strings.NewReader(next.body)), Request: r,
	}, nil
}

// follow has a follower live with some answers for a while, and returns what it told.
func follow(t *testing.T, version string, all ...reply) (told, asked []string) {
	t.Helper()
	api := &scripted{T: t, all: all}
	tl := &tool{override: &clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: "http://api"}}, where: &clientcmd.ClientConfigLoadingRules{}, transport: api}
	client, err := tl.reader()
	if err != nil {
		t.Fatal(err)
	}
	say := func(format string, args ...any) { told = append(told, fmt.Sprintf(format, args...)) }
	f := &follower{
		client: client, path: "/api/v1/services", parameters: []string{"fieldSelector", "a=b"},
		listed:  func(all []json.RawMessage) error { say("listed %d", len(all)); return nil },
		changed: func(kind watch.EventType, body json.RawMessage) error { say("%s %s", kind, body); return nil },
		failed:  func(err error) { say("failed: %v", err) },
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Hour)
	defer stop()
	f.run(ctx, version)
	return told, api.asked
}

func TestFollowingGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		told, asked := follow(t, "5",
			reply{200, `{"type":"ADDED","object":{"metadata":{"resourceVersion":"6"}}}{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}`},
			reply{503, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"away","code":503}`},
			reply{200, `{"type":"DELETED","object":{"metadata":{"resourceVersion":"11"}}}{"type":"ERROR","object":{"kind":"Status","code":410}}`},
			reply{200, `{"metadata":{"resourceVersion":"20"},"items":[{},{}]}`},
			reply{410, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`},
			reply{200, `{"metadata":{"resourceVersion":"30"},"items":[{}]}`},
			reply{200, `{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"31"}}}`},
		)
		want := []string{
			"failed: <nil>", `ADDED {"metadata":{"resourceVersion":"6"}}`, "failed: away", "failed: <nil>", `DELETED {"metadata":{"resourceVersion":"11"}}`,
			"listed 2", "listed 1", "failed: <nil>", `MODIFIED {"metadata":{"resourceVersion":"31"}}`,
		}
		if !slices.Equal(told, want) {
			t.Errorf("told:\n%s\nwant:\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
		}
		if want := []string{"watch from 5", "watch from 9", "watch from 9", "list", "watch from 20", "list", "watch from 30", "watch from 31"}; !slices.Equal(asked, want) {
			t.Errorf("asked %v, want %v", asked, want)
		}
	})
}

// Nobody is asked in a loop without a pause, whatever is answered.
func TestFollowingDoesNotHurry(t *testing.T) {
	for name, a := range map[string]reply{
		"watches that end at once":  {200, ""},
		"a server in trouble":       {500, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"trouble","code":500}`},
		"nonsense":                  {200, "nonsense"},
		"a version that is too old": {410, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410}`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, asked := follow(t, "5", slices.Repeat([]reply{a}, 10_000)...)
				if n := len(asked); n < 100 || n > 3601 {
					t.Errorf("asked %d times in an hour", n)
				}
			})
		})
	}
}

// An Event is printed once, however often it is heard of.
func TestTheTimelineHasEachEventOnce(t *testing.T) {
	event := func(name string, second int) json.RawMessage {
		return fmt.Appendf(nil, `{"metadata":{"name":%q,"uid":%q,"creationTimestamp":"2026-03-01T12:00:%02dZ"},"reason":"IPAllocated","note":%q,
			"reportingController":"belfry.dev/controller","regarding":{"kind":"Service","namespace":"web","name":"shop"}}`, name, name, second, name)
	}
	var out, errs bytes.Buffer
	l := &timeline{page: &page{w: &out}, errors: &errs}
	for _, err := range []error{
		l.listed([]json.RawMessage{event("b", 2), event("a", 1)}),
		l.changed(watch.Added, event("c", 3)),
		l.changed(watch.Modified, event("c", 3)),
		l.changed(watch.Deleted, event("a", 1)),
		l.listed([]json.RawMessage{event("d", 4), event("b", 2), event("c", 3)}),
		l.changed(watch.Added, event("d", 4)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	l.failed(fmt.Errorf("away"))
	l.failed(nil)
	l.failed(nil)
	want := ""
	for i, name := range []string{"a", "b", "c", "d"} {
		want += fmt.Sprintf("2026-03-01T12:00:0%dZ  IPAllocated      service/web/shop: %s\n", i+1, name)
	}
	if out.String() != want {
		t.Errorf("printed:\n%swant:\n%s", out.String(), want)
	}
	if want := "warning: away; trying again\nwatching again\n"; errs.String() != want {
		t.Errorf("said %q, want %q", errs.String(), want)
	}
}

// A store that follows is what one would be that is read anew.
func TestAStoreFollowsWhatIsAddedChangedAndGone(t *testing.T) {
	of := []kind{kinds[kindOf("services")], kinds[kindOf("nodes")]}
	random := rand.New(rand.NewPCG(1, 2))
	s, want := &store{}, map[string]string{}
	for step := range 5000 {
		k, name := of[random.IntN(2)], fmt.Sprintf("o%d", random.IntN(12))
		body := fmt.Appendf(nil, `{"metadata":{"name":%q,"resourceVersion":"%d"}}`, name, step)
		var err error
		switch random.IntN(20) {
		case 0:
			k.clear(s)
			maps.DeleteFunc(want, func(key, _ string) bool { return strings.HasPrefix(key, k.Kind) })
		case 1, 2, 3, 4, 5, 6, 7, 8:
			err = k.drop(s, body)
			delete(want, k.Kind+name)
		default:
			err = k.put(s, body)
			want[k.Kind+name] = fmt.Sprint(step)
		}
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, k := range of {
			for _, o := range k.all(s) {
				got[k.Kind+o.GetName()] = o.GetResourceVersion()
			}
		}
		if n := len(s.objects.Services) + len(s.objects.Nodes); !maps.Equal(got, want) || n != len(want) {
			t.Fatalf("step %d: %d objects %v, want %v", step, n, got, want)
		}
	}
}

// Many changes at once are one picture, and what cannot be read is told until it can.
func TestAFeedShowsWhatCameTogetherAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := &feed{store: &store{}, in: make(chan func(*feed)), troubles: map[string]string{}}
		ctx, stop := context.WithCancel(t.Context())
		var shown []string
		done := make(chan struct{})
		go func() {
			defer close(done)
			f.run(ctx, func(trouble string) { shown = append(shown, fmt.Sprintf("%d %s", len(f.store.objects.Nodes), trouble)) })
		}()
		k := kinds[kindOf("nodes")]
		to := f.follower(ctx, k, nil, "")
		node := func(name string) json.RawMessage { return fmt.Appendf(nil, `{"metadata":{"name":%q}}`, name) }
		_ = to.listed([]json.RawMessage{node("a"), node("b")})
		for i := range 100 {
			_ = to.changed(watch.Added, node(fmt.Sprint(i)))
		}
		time.Sleep(coalesced)
		synctest.Wait()
		_ = to.changed(watch.Deleted, node("a"))
		to.failed(fmt.Errorf("away"))
		time.Sleep(coalesced)
		synctest.Wait()
		to.failed(fmt.Errorf("away"))
		time.Sleep(time.Minute)
		synctest.Wait()
		to.failed(nil)
		time.Sleep(coalesced)
		synctest.Wait()
		stop()
		<-done
		if want := []string{"102 ", "101 away", "101 "}; !slices.Equal(shown, want) {
			t.Errorf("shown %q, want %q", shown, want)
		}
	})
}
