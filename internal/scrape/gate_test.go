package scrape

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// An office is an API server that can be told what to say.
type office struct {
	mu      sync.Mutex
	answers map[string]Access
	away    error
	asked   int
}

func (o *office) review(_ context.Context, token string) (Access, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.asked++
	return o.answers[token], o.away
}

func newGate(o *office) (*Gate, func(time.Duration)) {
	g := NewGate(o.review, slog.New(slog.DiscardHandler))
	now := time.Unix(1_700_000_000, 0)
	g.now = func() time.Time { return now }
	return g, func(d time.Duration) { now = now.Add(d) }
}

func knock(g *Gate, authorization string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/metrics", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	w := httptest.NewRecorder()
	g.Guard(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "figures") })).ServeHTTP(w, r)
	return w
}

func TestOnlyAnAllowedTokenReadsTheMetrics(t *testing.T) {
	for _, c := range []struct {
		name, authorization string
		status, asked       int
	}{
		{"allowed", "Bearer good", 200, 1},
		{"the scheme in small letters", "bearer good", 200, 1},
		{"blanks round the token", "Bearer   good ", 200, 1},
		{"forbidden", "Bearer poor", 403, 1},
		{"unknown", "Bearer whose", 401, 1},
		{"no header", "", 401, 0},
		{"no token", "Bearer", 401, 0},
		{"only blanks", "Bearer   ", 401, 0},
		{"another scheme", "Basic Z29vZDpnb29k", 401, 0},
		{"no scheme", "good", 401, 0},
		{"a token as long as a book", "Bearer " + strings.Repeat("x", maxToken+1), 401, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &office{answers: map[string]Access{"good": Allowed, "poor": Forbidden}}
			g, _ := newGate(o)
			for range 3 {
				w := knock(g, c.authorization)
				if w.Code != c.status || (w.Body.String() == "figures") != (c.status == 200) {
					t.Fatalf("%d %q, want %d", w.Code, w.Body, c.status)
				}
				if (w.Header().Get("WWW-Authenticate") != "") != (c.status == 401) {
					t.Errorf("%d with WWW-Authenticate %q", w.Code, w.Header().Get("WWW-Authenticate"))
				}
			}
			if o.asked != c.asked {
				t.Errorf("the API server was asked %d times, want %d", o.asked, c.asked)
			}
		})
	}
}

func TestARightThatIsTakenAwayEndsWithinAMinute(t *testing.T) {
	o := &office{answers: map[string]Access{"t": Allowed}}
	g, pass := newGate(o)
	if w := knock(g, "Bearer t"); w.Code != 200 {
		t.Fatalf("%d", w.Code)
	}
	o.answers["t"] = Forbidden
	pass(fresh - time.Second)
	if w := knock(g, "Bearer t"); w.Code != 200 {
		t.Errorf("an answer of less than a minute ago was not used: %d", w.Code)
	}
	pass(time.Second)
	if w := knock(g, "Bearer t"); w.Code != 403 {
		t.Errorf("after a minute: %d", w.Code)
	}
	o.answers["t"] = Allowed
	pass(fresh)
	if w := knock(g, "Bearer t"); w.Code != 200 {
		t.Errorf("a right that was given is not seen after a minute: %d", w.Code)
	}
}

func TestWhoWasAllowedReadsOnWhileTheAPIServerIsAway(t *testing.T) {
	o := &office{answers: map[string]Access{"good": Allowed, "poor": Forbidden}}
	g, pass := newGate(o)
	knock(g, "Bearer good")
	knock(g, "Bearer poor")
	o.away = errors.New("connection refused")
	pass(stale - time.Second)
	for token, status := range map[string]int{"good": 200, "poor": 503, "new": 503} {
		if w := knock(g, "Bearer "+token); w.Code != status {
			t.Errorf("%s: %d, want %d", token, w.Code, status)
		}
	}
	pass(time.Second)
	if w := knock(g, "Bearer good"); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("an answer older than %s: %d", stale, w.Code)
	}
}

func TestAFloodOfTokensHarmsNobodyWhoIsAllowed(t *testing.T) {
	o := &office{answers: map[string]Access{"good": Allowed}}
	g, pass := newGate(o)
	knock(g, "Bearer good")
	refused := 0
	for i := range 5 * remembered {
		if w := knock(g, fmt.Sprintf("Bearer %d", i)); w.Code == 429 {
			refused++
		}
	}
	if refused == 0 || o.asked > 10*burst {
		t.Errorf("%d refused, the API server was asked %d times", refused, o.asked)
	}
	// More unknown tokens than there is room for, at whatever pace.
	for i := range 5 * remembered {
		g.remember(key{1, byte(i), byte(i >> 8)}, remark{Unknown, g.now()})
	}
	if len(g.known) > remembered {
		t.Errorf("%d answers are kept, want %d at most", len(g.known), remembered)
	}
	before := o.asked
	if w := knock(g, "Bearer good"); w.Code != 200 || o.asked != before {
		t.Errorf("who was allowed before the flood: %d, asked %d times more", w.Code, o.asked-before)
	}
	pass(fresh)
	if w := knock(g, "Bearer good"); w.Code != 200 {
		t.Errorf("who was allowed before the flood, a minute later: %d", w.Code)
	}
}

func TestManyAtOnceAskOnce(t *testing.T) {
	begun, finish := make(chan struct{}, 100), make(chan struct{})
	asked := 0
	g := NewGate(func(context.Context, string) (Access, error) {
		asked++
		begun <- struct{}{}
		<-finish
		return Allowed, nil
	}, slog.New(slog.DiscardHandler))
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			if w := knock(g, "Bearer t"); w.Code != 200 {
				t.Errorf("%d", w.Code)
			}
		})
	}
	<-begun
	close(finish)
	wg.Wait()
	// Who comes after the first has its answer finds that remembered.
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
}

func FuzzAuthorization(f *testing.F) {
	for _, seed := range []string{"", "Bearer", "Bearer good", "bearer\tgood", "Bearer  ", "Basic x", "Bearer good good", "\x00 \xff"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, authorization string) {
		g := NewGate(func(_ context.Context, token string) (Access, error) {
			if token == "good" {
				return Allowed, nil
			}
			return Unknown, nil
		}, slog.New(slog.DiscardHandler))
		r := &http.Request{Header: http.Header{"Authorization": {authorization}}}
		allowed := g.judge(r.WithContext(t.Context())) == http.StatusOK
		scheme, rest, _ := strings.Cut(authorization, " ")
		if want := strings.EqualFold(scheme, "bearer") && strings.TrimSpace(rest) == "good"; allowed != want {
			t.Errorf("%q: allowed %v", authorization, allowed)
		}
	})
}
