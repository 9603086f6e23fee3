-- Decides which requests the front forwards, and ends those whose body does not arrive in time.
--
-- A request first arrives, then is in flight. While its body arrives it takes nothing of the server, so slow clients only take from
-- what `arriving` allows, and one address at most a share of that. Once the body is complete the request takes its bytes from what the
-- server's memory can hold. Sizes are bytes, times seconds. nginx.py writes the limits.
--
-- The counts are shared by nginx's workers. As with nginx's own limit_conn, what a worker holds when it crashes stays counted.

local _M = {}
local limits

function _M.configure(values)
    limits = values
end

local function take(counts, key, amount, most, lifetime)
    local count = counts:incr(key, amount, 0, lifetime)
    if count and count <= most then
        return true
    end
    counts:incr(key, -amount)
    return false
end

-- The bytes of the body that this request says it has; of a chunked one the most that is allowed.
local function declared()
    if ngx.var.http_transfer_encoding then
        return limits.max_body
    end
    return tonumber(ngx.var.http_content_length) or 0
end

local function received()
    local data = ngx.req.get_body_data()
    if data then
        return #data
    end
    local name = ngx.req.get_body_file()
    local file = name and io.open(name, "rb")
    if not file then
        return 0
    end
    local size = file:seek("end")
    file:close()
    return size
end

local function release(key, size)
    ngx.shared.counts:incr(key .. " requests", -1)
    ngx.shared.counts:incr(key .. " bytes", -size)
end

local function release_address(size)
    local address = ngx.var.binary_remote_addr
    ngx.shared.addresses:incr(address, -1)
    ngx.shared.addresses:incr(address .. "b", -size)
end

local function enter(key, size, most_requests, most_bytes)
    local counts = ngx.shared.counts
    if not take(counts, key .. " requests", 1, most_requests) then
        return false
    end
    if not take(counts, key .. " bytes", size, most_bytes) then
        counts:incr(key .. " requests", -1)
        return false
    end
    return true
end

local function enter_address(size)
    local addresses, address = ngx.shared.addresses, ngx.var.binary_remote_addr
    if not take(addresses, address, 1, limits.address_requests, limits.address_lifetime) then
        return false
    end
    if not take(addresses, address .. "b", size, limits.address_bytes, limits.address_lifetime) then
        addresses:incr(address, -1)
        return false
    end
    return true
end

local function leave_arriving()
    local buffered = tonumber(ngx.var.arriving)
    if buffered then
        ngx.var.arriving = ""
        release("arriving", buffered)
        release_address(buffered)
    end
end

local function arrive(size)
    local buffered = size > limits.small and size or 0  -- a small body is kept in memory, and its number is limited
    if not enter_address(buffered) then
        return ngx.exit(503)
    end
    if not enter("arriving", buffered, limits.arriving_requests, limits.arriving_bytes) then
        release_address(buffered)
        return ngx.exit(503)
    end
    ngx.var.arriving = buffered
    local timer = ngx.thread.spawn(function()
        ngx.sleep(limits.body_s + size / limits.body_rate)
        leave_arriving()
        ngx.exit(limits.too_slow)  -- 408 itself would close the connection without an answer
    end)
    ngx.req.read_body()
    ngx.thread.kill(timer)
    leave_arriving()
end

-- access phase
function _M.admit()
    local size = declared()
    if size > limits.max_body and limits.max_body > 0 then
        return ngx.exit(413)
    end
    if size > 0 then
        arrive(size)
        size = received()
    end
    -- Small bodies have a part of the budget that large ones cannot take.
    local kind = size > limits.small and "large" or "small"
    if not enter(kind, size, limits.flight_requests, limits[kind .. "_bytes"]) then
        return ngx.exit(503)
    end
    ngx.var.flight = size
end

-- log phase
function _M.leave()
    ngx.var.ms = math.floor(tonumber(ngx.var.request_time) * 1000 + 0.5)
    leave_arriving()
    local flight = tonumber(ngx.var.flight)
    if flight then
        release(flight > limits.small and "large" or "small", flight)
        -- Nobody waits for the answer any more: the handler library looks for this file before it runs the request.
        if limits.cancelled and (ngx.status == 499 or ngx.status == 504) and ngx.var.upstream_addr then
            local file = io.open(limits.cancelled .. "/" .. ngx.var.request_id, "w")
            if file then
                file:close()
            end
        end
    end
end

return _M
