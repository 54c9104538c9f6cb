package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// podOf is a running Pod of a container with arguments.
func podOf(name, container string, args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: container, Args: args}}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func TestMetricsAreWhereTheFlagSays(t *testing.T) {
	pending := podOf("p", "speaker")
	pending.Status.Phase = corev1.PodPending
	for name, c := range map[string]struct {
		pod     *corev1.Pod
		port    int
		problem string
	}{
		"a speaker":        {podOf("p", "speaker", "--log-format=json"), 7872, ""},
		"a controller":     {podOf("p", "controller"), 7882, ""},
		"another port":     {podOf("p", "speaker", "--metrics-address=[::1]:9000"), 9000, ""},
		"in two arguments": {podOf("p", "controller", "--metrics-address", "127.0.0.1:9001"), 9001, ""},
		"none":             {podOf("p", "speaker", "--metrics-address="), 0, "authentication alone"},
		"nonsense":         {podOf("p", "speaker", "--metrics-address=here"), 0, "has no port"},
		"not running":      {pending, 0, "not running"},
		"something else":   {podOf("p", "proxy"), 0, ""},
	} {
		is, problem := sourceOf(c.pod)
		if is.port != c.port || (problem == "") != (c.problem == "") || !strings.Contains(problem, c.problem) {
			t.Errorf("%s: %+v %q, want port %d and %q", name, is, problem, c.port, c.problem)
		}
	}
}

// Programs that do not answer cost a bounded time, all together, and what is missing is said
// once for each reason.
func TestMetricsTakeABoundedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pods []*corev1.Pod
		for i := range 200 {
			pods = append(pods, podOf(fmt.Sprintf("silent-%03d", i), "speaker"))
		}
		pods = append([]*corev1.Pod{podOf("good", "controller"), podOf("belfry-r", "speaker"), podOf("closed", "speaker", "--metrics-address=")}, pods...)
		hold := make(chan struct{})
		var now, most atomic.Int32
		began := time.Now()
		f := readFigures(t.Context(), pods, func(_ context.Context, is source) ([]byte, error) {
			if n := now.Add(1); n > most.Load() {
				most.Store(n)
			}
			defer now.Add(-1)
			switch is.pod {
			case "good":
				return []byte("up 1\n"), nil
			case "belfry-r":
				return nil, errors.New("pods belfry-r: connection refused")
			}
			<-hold // whatever the context says
			return nil, nil
		})
		if took := time.Since(began); took > metricsTime {
			t.Errorf("took %v", took)
		}
		close(hold)
		if len(f.texts) != 1 || string(f.texts["good"]) != "up 1\n" {
			t.Errorf("texts: %q", f.texts)
		}
		want := []string{
			"metrics of closed: it serves them with authentication alone", "metrics of belfry-r: pods the Pod: connection refused",
		}
		notes := f.notes()
		// Whether the last round is begun when time is up is open: both end at one moment.
		silent, late := 0, 0
		notes = slices.DeleteFunc(notes, func(n string) bool {
			var pods int
			if _, err := fmt.Sscanf(n, "metrics of %d Pods", &pods); err != nil {
				return false
			}
			if strings.HasSuffix(n, ": no answer in time") {
				silent = pods
			} else {
				late = pods
			}
			return true
		})
		if silent < 96 || silent > 96+metricsAtOnce || silent+late != 200 {
			t.Errorf("%d Pods did not answer and for %d there was no time: %q", silent, late, f.notes())
		}
		for _, w := range want {
			if !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, w) }) {
				t.Errorf("no note begins with %q: %q", w, notes)
			}
		}
		if len(notes) != len(want) {
			t.Errorf("notes: %q", notes)
		}
	})
}

// A forwarder is an API server that forwards ports, as a kubelet's end would.
func forwarder(t *testing.T, serve func(port string, data io.ReadWriter) (problem string)) func(w http.ResponseWriter, r *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "websocket" {
			http.Error(w, "only SPDY is spoken here", http.StatusBadRequest)
			return
		}
		if _, err := httpstream.Handshake(r, w, []string{"portforward.k8s.io"}); err != nil {
			t.Error(err)
			return
		}
		streams := make(chan httpstream.Stream, 2)
		over := spdy.NewResponseUpgrader().UpgradeResponse(w, r, func(s httpstream.Stream, _ <-chan struct{}) error { streams <- s; return nil })
		if over == nil {
			return
		}
		defer over.Close()
		problems := <-streams
		data := <-streams
		if problems.Headers().Get(corev1.StreamType) != corev1.StreamTypeError {
			t.Errorf("the first stream is of type %q", problems.Headers().Get(corev1.StreamType))
		}
		problem := serve(data.Headers().Get(corev1.PortHeader), data)
		_, _ = io.WriteString(problems, problem)
		_ = problems.Close()
		_ = data.Close()
		<-over.CloseChan()
	}
}

// An API server that forwards to programs: one that has metrics, and one that does not
// listen.
func TestABugReportHasTheMetricsOfThePrograms(t *testing.T) {
	forward := forwarder(t, func(port string, data io.ReadWriter) string {
		if port != "7872" {
			return "connection refused at port " + port
		}
		r, err := http.ReadRequest(bufio.NewReader(data))
		if err != nil || r.URL.Path != "/metrics" || r.Header.Get("Authorization") != "" {
			t.Errorf("asked for %+v: %v", r, err)
		}
		_, _ = io.WriteString(data, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nbelfry_up{node=\"n1\"} 1\n")
		return ""
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch at := r.URL.Path; {
		case strings.HasSuffix(at, "/belfry-speaker-away/portforward"):
			http.Error(w, `pods "belfry-speaker-away" is forbidden`, http.StatusForbidden)
		case strings.HasSuffix(at, "/portforward"):
			forward(w, r)
		case strings.HasSuffix(at, "/pods"):
			w.Header().Set("Content-Type", "application/json")
			pod := func(name, container string) string {
				return fmt.Sprintf(`{"metadata": {"name": %q}, "spec": {"nodeName": "n1", "containers": [{"name": %q}]}, "status": {"phase": "Running"}}`, name, container)
			}
			fmt.Fprintf(w, `{"kind": "PodList", "apiVersion": "v1", "items": [%s, %s, %s]}`,
				pod("belfry-speaker-x7k2p", "speaker"), pod("belfry-speaker-away", "speaker"), pod("belfry-controller-7c9d", "controller"))
		case strings.HasSuffix(at, "/nodes"):
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind": "NodeList", "apiVersion": "v1", "items": [{"metadata": {"name": "n1"}}]}`)
		default:
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"kind": "List", "apiVersion": "v1", "items": []}`)
		}
	}))
	defer server.Close()
	for flags, want := range map[string]string{"": "belfry_up{node=\"n1\"} 1\n", "--anonymize": "belfry_up{node=\"node-1\"} 1\n"} {
		out, code := run(t, "", append(strings.Fields("bug-report --token secret --server "+server.URL+" --file -"), strings.Fields(flags)...)...)
		if code != Well {
			t.Fatalf("%s ends with %d:\n%s", flags, code, out)
		}
		files := unpack(t, []byte(out))
		var metrics []string
		for _, name := range slices.Sorted(maps.Keys(files)) {
			if strings.HasPrefix(name, "metrics/") {
				metrics = append(metrics, files[name])
			}
		}
		if !slices.Equal(metrics, []string{want}) {
			t.Errorf("%s: metrics are %q", flags, metrics)
		}
		about := files["about.txt"]
		if !strings.Contains(about, "connection refused at port 7882") || !strings.Contains(about, "the Pod\" is forbidden") {
			t.Errorf("%s: it does not say what is missing:\n%s", flags, about)
		}
	}
}
