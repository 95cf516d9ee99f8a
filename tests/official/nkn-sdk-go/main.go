// Clients of the official SDK for Go that do what standard input tells them, as tests/nkn/sdk.mjs does: a JSON
// object a line, answered by one.
//
//	{"id", "op": "open", "name", "identifier", "multi", …options}   -> the address
//	{"id", "op": "send", "name", "dest", "data", …options}   -> the answer, as what()
//	{"id", "op": "session", "name", "dest", "bytes"}   -> digests of both directions
//	{"id", "op": "got", "name"}, {"id", "op": "close", "name"}, {"id", "op": "listen", "name"}
//
// Data is {"text": string} or {"bytes": how many}, which stands for the pattern that pattern() makes.
//
// Two options of "open" are only here: "early" lets it answer when all sub-clients are connected, but only one
// must be logged in, and "lateMs" keeps what the node says on every connection but the first for so long, after
// the websocket is open. {"op": "wait", "name"} waits for the other logins, and tells how many connections it took.
package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	ncp "github.com/nknorg/ncp-go"
	nkn "github.com/nknorg/nkn-sdk-go"
	"github.com/nknorg/nkngomobile"
)

type content struct {
	Text  *string `json:"text"`
	Bytes int     `json:"bytes"`
}

type request struct {
	ID   int    `json:"id"`
	Op   string `json:"op"`
	Name string `json:"name"`

	// open
	Identifier     string              `json:"identifier"`
	Seed           string              `json:"seed"`
	Multi          bool                `json:"multi"`
	NumSubClients  int                 `json:"numSubClients"`
	OriginalClient bool                `json:"originalClient"`
	SessionConfig  struct{ Mtu int32 } `json:"sessionConfig"`
	Early          bool                `json:"early"`
	LateMs         int64               `json:"lateMs"`

	// send, session
	Dest              destinations `json:"dest"`
	Data              content      `json:"data"`
	Encrypt           *bool        `json:"encrypt"`
	NoReply           bool         `json:"noReply"`
	MsgHoldingSeconds int32        `json:"msgHoldingSeconds"`
	ResponseTimeout   int64        `json:"responseTimeout"`
	Bytes             int          `json:"bytes"`
}

// One address, or a list of them.
type destinations []string

func (d *destinations) UnmarshalJSON(data []byte) error {
	if data[0] == '[' {
		return json.Unmarshal(data, (*[]string)(d))
	}
	*d = make([]string, 1)
	return json.Unmarshal(data, &(*d)[0])
}

// Client and MultiClient.
type sender interface {
	Address() string
	Send(*nkngomobile.StringArray, interface{}, *nkn.MessageConfig) (*nkn.OnMessage, error)
	Close() error
}

type client struct {
	sender
	multi   *nkn.MultiClient // nil: a Client
	watch   *watch
	missing int // logins

	lock sync.Mutex
	got  []map[string]any
}

var (
	seedRPC = os.Args[1]
	clients sync.Map // name -> *client
)

func open(r *request) (any, error) {
	seed, err := hex.DecodeString(r.Seed)
	if err != nil {
		return nil, err
	}
	account, err := nkn.NewAccount(seed) // a new one when the seed is empty
	if err != nil {
		return nil, err
	}
	watch := &watch{late: time.Duration(r.LateMs) * time.Millisecond, loggedIn: make(chan struct{}, 64)}
	config := &nkn.ClientConfig{
		SeedRPCServerAddr:    nkn.NewStringArray(seedRPC),
		MinReconnectInterval: 50,
		MaxReconnectInterval: 200,
		AllowUnencrypted:     true,
		WsDialContext:        watch.dial,
		SessionConfig:        &ncp.Config{MTU: 1024},
	}
	if r.SessionConfig.Mtu != 0 {
		config.SessionConfig.MTU = r.SessionConfig.Mtu
	}
	opened := &client{watch: watch, missing: 1}
	var messages *nkn.OnMessage
	if r.Multi {
		sub := r.NumSubClients
		if sub == 0 {
			sub = 4 // as the SDK for JavaScript
		}
		opened.missing = sub
		if r.OriginalClient {
			opened.missing++
		}
		if opened.multi, err = nkn.NewMultiClient(account, r.Identifier, sub, r.OriginalClient, config); err != nil {
			return nil, err
		}
		opened.sender, messages = opened.multi, opened.multi.OnMessage
		<-opened.multi.OnConnect.C
		for len(opened.multi.GetClients()) < opened.missing {
			time.Sleep(time.Millisecond)
		}
	} else {
		one, err := nkn.NewClient(account, r.Identifier, config)
		if err != nil {
			return nil, err
		}
		opened.sender, messages = one, one.OnMessage
		<-one.OnConnect.C
	}
	go opened.receive(r.Name, messages)
	clients.Store(r.Name, opened)
	if !r.Early {
		opened.wait()
	}
	return opened.Address(), nil
}

func (c *client) wait() map[string]any {
	for ; c.missing > 0; c.missing-- {
		<-c.watch.loggedIn
	}
	return map[string]any{"connections": c.watch.dials.Load()}
}

func (c *client) receive(name string, messages *nkn.OnMessage) {
	for message := range messages.C {
		var data any = message.Data
		text, isText := "", message.Type == nkn.TextType
		if isText {
			text = string(message.Data)
			data = text
		}
		seen := what(data)
		seen["src"], seen["encrypted"], seen["noReply"] = message.Src, message.Encrypted, message.NoReply
		seen["messageId"] = hex.EncodeToString(message.MessageID)
		c.lock.Lock()
		c.got = append(c.got, seen)
		c.lock.Unlock()
		switch {
		case text == "say nothing":
			continue
		case text == "only acknowledge":
			data = nil
		case isText:
			data = name + " got " + text
		}
		message.Reply(data)
	}
}

func (c *client) send(r *request) (any, error) {
	var data any = pattern(r.Data.Bytes)
	if r.Data.Text != nil {
		data = *r.Data.Text
	}
	answers, err := c.Send(nkn.NewStringArray(r.Dest...), data, &nkn.MessageConfig{
		Unencrypted:       r.Encrypt != nil && !*r.Encrypt,
		NoReply:           r.NoReply,
		MaxHoldingSeconds: r.MsgHoldingSeconds,
	})
	if err != nil || r.NoReply {
		return "ack", err
	}
	patience := 5 * time.Second
	if r.ResponseTimeout != 0 {
		patience = time.Duration(r.ResponseTimeout) * time.Millisecond
	}
	select {
	case answer := <-answers.C:
		switch {
		case answer.Data == nil && answer.Type != nkn.TextType:
			return "ack", nil
		case answer.Type == nkn.TextType:
			return what(string(answer.Data)), nil
		}
		return what(answer.Data), nil
	case <-time.After(patience):
		return nil, errors.New("timeout")
	}
}

func (c *client) listen() error {
	if err := c.multi.Listen(nil); err != nil {
		return err
	}
	go func() {
		session, err := c.multi.Accept()
		if err != nil {
			return
		}
		if data, err := readAll(session); err == nil {
			session.Write(data)
		}
	}()
	return nil
}

// What is sent comes back over the same session: both ways carry it.
func (c *client) session(r *request) (any, error) {
	session, err := c.multi.Dial(r.Dest[0])
	if err != nil {
		return nil, err
	}
	data := pattern(r.Bytes)
	if err := binary.Write(session, binary.LittleEndian, uint32(len(data))); err != nil {
		return nil, err
	}
	if _, err := session.Write(data); err != nil {
		return nil, err
	}
	back := make([]byte, len(data))
	if _, err := io.ReadFull(session, back); err != nil {
		return nil, err
	}
	return map[string]any{"sent": digest(data), "back": digest(back), "bytes": len(back)}, session.Close()
}

func readAll(session net.Conn) ([]byte, error) {
	var size uint32
	if err := binary.Read(session, binary.LittleEndian, &size); err != nil {
		return nil, err
	}
	data := make([]byte, size)
	_, err := io.ReadFull(session, data)
	return data, err
}

func pattern(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i*31 + i>>8)
	}
	return data
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func what(data any) map[string]any {
	if text, ok := data.(string); ok {
		return map[string]any{"text": text}
	}
	return map[string]any{"bytes": len(data.([]byte)), "digest": digest(data.([]byte))}
}

// The websockets of a client: the SDK tells only of the first login of a MultiClient.
type watch struct {
	dials    atomic.Int64
	late     time.Duration
	loggedIn chan struct{}
}

func (w *watch) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	watched := &watched{Conn: conn, watch: w, reader: bufio.NewReader(conn), inHead: true}
	if w.dials.Add(1) > 1 {
		watched.late = w.late
	}
	return watched, nil
}

type watched struct {
	net.Conn
	watch    *watch
	reader   *bufio.Reader
	inHead   bool // of the answer that opens the websocket
	late     time.Duration
	begin    []byte // of what came after it, until the login is answered
	answered bool
	loggedIn bool
	wrote    atomic.Int64 // when, in ns
}

func (c *watched) Write(data []byte) (int, error) {
	defer func() { c.wrote.Store(time.Now().UnixNano()) }()
	return c.Conn.Write(data)
}

func (c *watched) Read(data []byte) (int, error) {
	if c.inHead {
		line, err := c.reader.ReadSlice('\n') // which is shorter than what the SDK reads at once
		c.inHead = len(line) > 2
		return copy(data, line), err
	}
	if c.late > 0 {
		time.Sleep(c.late)
		c.late = 0
	}
	if c.answered { // and the SDK, which asks for more now, has read that
		c.answered, c.loggedIn = false, true
		c.watch.loggedIn <- struct{}{}
	}
	size, err := c.reader.Read(data)
	if !c.loggedIn {
		c.begin = append(c.begin, data[:size]...)
		c.answered = bytes.Contains(c.begin, []byte(`"Action":"setClient"`))
	}
	// The SDK prepares for a reply after it has sent the message, and drops one that is quicker.
	if since := time.Since(time.Unix(0, c.wrote.Load())); since < time.Millisecond {
		time.Sleep(time.Millisecond - since)
	}
	return size, err
}

func answer(r *request) (any, error) {
	if r.Op == "open" {
		return open(r)
	}
	found, ok := clients.Load(r.Name)
	if !ok {
		return nil, errors.New("no client " + r.Name)
	}
	c := found.(*client)
	switch r.Op {
	case "send":
		return c.send(r)
	case "wait":
		return c.wait(), nil
	case "listen":
		return nil, c.listen()
	case "session":
		return c.session(r)
	case "got":
		c.lock.Lock()
		defer c.lock.Unlock()
		got := append([]map[string]any{}, c.got...)
		c.got = nil
		return got, nil
	case "close":
		clients.Delete(r.Name)
		return nil, c.Close()
	}
	return nil, errors.New("unknown op " + r.Op)
}

func main() {
	log.SetOutput(io.Discard) // the SDK speaks there
	var lock sync.Mutex
	lines := json.NewEncoder(os.Stdout)
	input := json.NewDecoder(os.Stdin)
	for {
		r := &request{}
		if err := input.Decode(r); err != nil {
			return // the end of the input
		}
		go func() {
			answered := map[string]any{"id": r.ID}
			if result, err := answer(r); err != nil {
				answered["error"] = err.Error()
			} else {
				answered["result"] = result
			}
			lock.Lock()
			defer lock.Unlock()
			lines.Encode(answered)
		}()
	}
}
