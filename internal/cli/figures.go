package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/streaming/pkg/httpstream"
)

// Bounds of what is read of metrics: docs/design/figures.md.
const (
	// metricsMost bounds the metrics of one program, in bytes.
	metricsMost = 4 << 20
	// metricsPatience bounds the question to one program, and metricsTime all of them.
	metricsPatience = 5 * time.Second
	metricsTime     = 30 * time.Second
	// metricsAtOnce is how many programs are asked at a time.
	metricsAtOnce = 16
)

// metricsAddresses are what our containers listen on for metrics without authentication
// unless they are told otherwise by metricsFlag.
var metricsAddresses = map[string]string{"speaker": "127.0.0.1:7872", "controller": "127.0.0.1:7882"}

const metricsFlag = "--metrics-address"

// A source is where a program has its metrics.
type source struct {
	pod  string
	port int
}

// sourceOf returns where a Pod of ours has its metrics, or why they cannot be had; neither for
// a Pod of something else.
func sourceOf(p *corev1.Pod) (is source, problem string) {
	for _, c := range p.Spec.Containers {
		address, ours := metricsAddresses[c.Name]
		if !ours {
			continue
		}
		for i, arg := range c.Args {
			if value, given := strings.CutPrefix(arg, metricsFlag+"="); given {
				address = value
			} else if arg == metricsFlag && i+1 < len(c.Args) {
				address = c.Args[i+1]
			}
		}
		if address == "" {
			return source{}, "it serves them with authentication alone (" + metricsFlag + " is empty)"
		}
		port, err := strconv.Atoi(address[strings.LastIndex(address, ":")+1:])
		if err != nil || port < 1 || port > 65535 {
			return source{}, fmt.Sprintf("%s %q has no port", metricsFlag, address)
		}
		if p.Status.Phase != corev1.PodRunning {
			return source{}, "the Pod is not running"
		}
		return source{p.Name, port}, ""
	}
	return source{}, ""
}

// A figures is the metrics of programs, by Pod, and why some are missing.
type figures struct {
	mu      sync.Mutex
	texts   map[string][]byte
	missing map[string][]string // Pods, by why
}

func (f *figures) miss(pod, why string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.missing[why] = append(f.missing[why], pod)
}

// notes say what is missing, each reason once.
func (f *figures) notes() (out []string) {
	for why, pods := range f.missing {
		slices.Sort(pods)
		out = append(out, "metrics of "+some(pods)+": "+why)
	}
	slices.Sort(out)
	return out
}

// some names Pods as far as there are few.
func some(pods []string) string {
	if len(pods) > 3 {
		return fmt.Sprintf("%d Pods (%s, ...)", len(pods), strings.Join(pods[:3], ", "))
	}
	return strings.Join(pods, ", ")
}

// readFigures asks programs for their metrics, several at a time. A program that does not
// answer costs no more than its share of the time, although what asks it may outlast this:
// what a connection waits for cannot be cut short.
func readFigures(ctx context.Context, pods []*corev1.Pod, ask func(context.Context, source) ([]byte, error)) *figures {
	ctx, stop := context.WithTimeout(ctx, metricsTime)
	defer stop()
	f := &figures{texts: map[string][]byte{}, missing: map[string][]string{}}
	turn := make(chan struct{}, metricsAtOnce)
	var asking sync.WaitGroup
	for _, p := range pods {
		is, problem := sourceOf(p)
		switch {
		case problem != "":
			f.miss(p.Name, problem)
			continue
		case is == source{}:
			continue
		}
		asking.Go(func() {
			select {
			case turn <- struct{}{}:
				defer func() { <-turn }()
			case <-ctx.Done():
				f.miss(is.pod, "there was no time left")
				return
			}
			text, err := within(ctx, metricsPatience, func(ctx context.Context) ([]byte, error) { return ask(ctx, is) })
			if err != nil {
				f.miss(is.pod, strings.ReplaceAll(err.Error(), is.pod, "the Pod"))
				return
			}
			f.mu.Lock()
			defer f.mu.Unlock()
			f.texts[is.pod] = text
		})
	}
	asking.Wait()
	return f
}

// within returns what came of an act, or that it took too long.
func within(ctx context.Context, patience time.Duration, act func(context.Context) ([]byte, error)) ([]byte, error) {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	type result struct {
		text []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		text, err := act(ctx)
		done <- result{text, err}
	}()
	select {
	case r := <-done:
		return r.text, r.err
	case <-ctx.Done():
		return nil, errors.New("no answer in time")
	}
}

// forwarded returns what asks a program of a cluster for its metrics: by a connection that
// the API server forwards to the Pod's loopback, where they are served to whoever may have
// such a connection.
func forwarded(config *rest.Config, client rest.Interface, namespace string) func(context.Context, source) ([]byte, error) {
	return func(ctx context.Context, is source) ([]byte, error) {
		at := client.Post().AbsPath("/api/v1/namespaces/" + namespace + "/pods/" + is.pod + "/portforward").URL()
		byWebsocket, err := portforward.NewSPDYOverWebsocketDialerForStreaming(at, config)
		if err != nil {
			return nil, err
		}
		transport, upgrader, err := spdy.RoundTripperFor(config)
		if err != nil {
			return nil, err
		}
		dialer := portforward.NewFallbackDialerForStreaming(byWebsocket, spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, http.MethodPost, at), func(err error) bool {
			return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
		})
		over, _, err := dialer.Dial(portforward.PortForwardProtocolV1Name)
		if err != nil {
			return nil, err
		}
		defer over.Close()
		defer context.AfterFunc(ctx, func() { _ = over.Close() })()
		return readMetrics(over, is.port)
	}
}

// readMetrics asks for the metrics at a port by a connection that forwards.
func readMetrics(over httpstream.Connection, port int) ([]byte, error) {
	headers := http.Header{}
	headers.Set(corev1.StreamType, corev1.StreamTypeError)
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	problems, err := over.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	if err := problems.Close(); err != nil { // it is for reading
		return nil, err
	}
	headers.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := over.CreateStream(headers)
	if err != nil {
		return nil, err
	}
	ask, err := http.NewRequest(http.MethodGet, "http://localhost/metrics", nil)
	if err != nil {
		return nil, err
	}
	ask.Close = true
	err = ask.Write(data)
	var answer *http.Response
	if err == nil {
		answer, err = http.ReadResponse(bufio.NewReader(data), ask)
	}
	if err != nil {
		if why, _ := io.ReadAll(io.LimitReader(problems, 1<<10)); len(why) > 0 {
			return nil, errors.New(string(why))
		}
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the answer is %s", answer.Status)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, metricsMost+1))
	if len(text) > metricsMost {
		return nil, fmt.Errorf("they are more than %d bytes", metricsMost)
	}
	return text, err
}
